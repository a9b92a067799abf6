"""Text of others, such as names of files, made safe to print.

A name may hold what a terminal obeys (escape sequences), what turns the order of letters around (bidi
controls), and line breaks, behind which a second message can be forged. Values in tables and exports stay as
they are; only what people read is escaped.
"""

import codecs
import unicodedata

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of what has no shape of its own: controls, format characters (bidi controls, joiners),
halves of surrogate pairs, private use, unassigned; and both separators that break lines."""

_ASCII = str.maketrans({"…": "...", "–": "-", "—": "-", "·": "*", "×": "x", "“": '"', "”": '"', "’": "'"})


def visible(text: str) -> str:
    """The text on one line, with each character that has no shape of its own as an escape.

    >>> print(visible("a\\x1b[31m\\u202egpj.exe\\n"))
    a\\x1b[31m\\u202egpj.exe\\n
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if unicodedata.category(letter) in _HIDDEN else letter for letter in text)


def _escaped(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte of a name that is not UTF-8
    if letter in _SHORT:
        return _SHORT[letter]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _for_this_terminal(error: UnicodeError) -> tuple[str, int]:
    """What a terminal that does not know some letters gets for them."""
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    plain = "".join(letter if letter.isascii() else _escaped(letter) for letter in letters.translate(_ASCII))
    return plain, error.end


ON_A_PLAIN_TERMINAL = "faceq.plain"
"""Name of the error handler with which any text can be written to a stream of any encoding."""

codecs.register_error(ON_A_PLAIN_TERMINAL, _for_this_terminal)
