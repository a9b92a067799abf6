"""Images that a Parquet shard stores as base64 text."""

import base64
import binascii
from dataclasses import dataclass

import pyarrow as pa

from faceq.errors import UnreadableError
from faceq.sources.sniff import kind_of_bytes

_SPACE = b" \t\r\n"
_STANDARD = bytes.maketrans(b"-_", b"+/")
_DATA_URL = b"data:"
_MARK = b";base64"
_HEADER = 256
"""Maximum length of what comes before the comma in a data URL."""

_START = 1024
"""Number of first characters that `is_image` decodes."""


@dataclass(frozen=True)
class Base64Text:
    """One image as base64 (RFC 4648) or as a data URL with it.

    Both alphabets are accepted, also without padding and with line breaks.
    """

    text: pa.Buffer

    @property
    def size(self) -> int:
        """Bytes of the image, roughly."""
        return 3 * len(self.text) // 4

    @property
    def is_image(self) -> bool:
        """Whether the first bytes are those of an image file."""
        try:
            start = _payload(bytes(memoryview(self.text)[:_START]))
            return kind_of_bytes(_decoded(start[: len(start) // 4 * 4])) == "picture"
        except UnreadableError:
            return False

    def encoded(self) -> bytes:
        """The image. Raises UnreadableError if the text is not base64."""
        return _decoded(_payload(self.text.to_pybytes()))


def _payload(text: bytes) -> bytes:
    """The characters of the base64 text."""
    if text[: len(_DATA_URL)].lower() == _DATA_URL:
        header, comma, text = text.partition(b",")
        if not comma or not header[:_HEADER].lower().rstrip().endswith(_MARK):
            raise UnreadableError("its data URL has no base64 text: store `data:image/…;base64,…`")
    return text.translate(_STANDARD, _SPACE).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableError(
            f"its text is not base64 ({error}): store the image itself in a binary column"
        ) from None
