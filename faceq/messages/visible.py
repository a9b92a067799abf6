"""Make untrusted text, such as file names, safe to print.

A file name may contain terminal escape sequences, bidi controls that reverse the order of characters, and
line breaks that can forge a second message. Only text for people is escaped; values in tables and exports
stay unchanged.
"""

import codecs
import unicodedata

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters without a visible shape: controls, format characters (bidi controls,
joiners), surrogates, private use, unassigned; and the line and paragraph separators."""

_ASCII = str.maketrans({"…": "...", "–": "-", "—": "-", "·": "*", "×": "x", "“": '"', "”": '"', "’": "'"})


def visible(text: str) -> str:
    """The text on one line, with every invisible character escaped.

    >>> print(visible("a\\x1b[31m\\u202egpj.exe\\n"))
    a\\x1b[31m\\u202egpj.exe\\n
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if unicodedata.category(char) in _HIDDEN else char for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte of a file name that is not UTF-8
    if char in _SHORT:
        return _SHORT[char]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that the encoding of the stream lacks by ASCII text or an escape."""
    assert isinstance(error, UnicodeEncodeError)
    chars = error.object[error.start : error.end]
    plain = "".join(char if char.isascii() else _escaped(char) for char in chars.translate(_ASCII))
    return plain, error.end


ENCODING_ERRORS = "faceq.plain"
"""Name of the codec error handler that lets any text be written to a stream of any encoding."""

codecs.register_error(ENCODING_ERRORS, _replace_unencodable)
