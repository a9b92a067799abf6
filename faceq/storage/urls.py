"""URLs of files: signatures in them, and the name under which a table records them."""

import re
from urllib.parse import quote

from faceq.messages.masking import holds_secret

_OF_A_SIGNATURE = re.compile(
    r"(?: x-(?:amz|goog)-[\w-]*"  # S3 and Google Cloud Storage
    r"| awsaccesskeyid | googleaccessid | signature | expires"
    r"| sig | s[vtepri] | spr | srt | ss | sdd | sko?id | sktid | sk[tesv]"  # Azure
    r"| key-pair-id | policy | hdnt[sl] ) =",  # CloudFront, Akamai
    re.IGNORECASE | re.VERBOSE,
)
_ESCAPED = re.compile(r"(?:[\w.~!*'();:@&=+$,/?#\[\]-]|%[0-9a-f]{2})*", re.IGNORECASE | re.ASCII)


def is_signed(url: str) -> bool:
    """Whether the query of a URL contains a signature."""
    return holds_secret(f"x?{url.partition('?')[2]}")


def without_signature(url: str) -> str:
    """A signed URL without the parameters of the signature: its name in a table, which holds no secret and
    stays the same when the URL is signed again. Other URLs unchanged."""
    if not is_signed(url):
        return url
    address, _, query = url.partition("?")
    kept = [part for part in query.split("&") if not _OF_A_SIGNATURE.match(part)]
    return f"{address}?{'&'.join(kept)}" if kept else address


def escaped(url: str) -> str:
    """A URL as it is sent. One that is already valid is not changed, so that its signature stays valid."""
    url = url.partition("#")[0]
    return url if _ESCAPED.fullmatch(url) else quote(url, safe="%/:=&?~#+!$,;'@()*[]")
