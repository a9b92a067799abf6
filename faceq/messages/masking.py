"""Mask secrets in text: passwords in URLs, signatures in their query strings, keys in the environment.

Everything that faceq writes for others to read goes through `mask`: errors, logs, the records and rows of
tables.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

MASK = "***"

_USER_INFO = re.compile(
    r"""([a-z][a-z0-9+.-]{0,30}://)
    (?: [^\s/?\#]{0,512}                                 # user:password
      | [^\s/?\#@:[]{1,512} : (?!\d{1,5}(?:[/?\#\s]|$))  # not followed by a port, but by a key with slashes
        [^\s@]{0,512} ) @""",
    re.IGNORECASE | re.VERBOSE,
)
_QUERY = re.compile(
    r"""((?: https?:// | \bwith\ url:\ ) [^\s'"<>?]{1,2048} \?)  # the second form is from urllib3's errors
    [^\s'"<>)]* [^\s'"<>):,;.]""",
    re.IGNORECASE | re.VERBOSE,
)
_PARAMETER = re.compile(
    r"""([?&;](?: [\w.-]{0,64}
        (?: signature | credential | token | secret | passwo?r?d | api_?key | access_?key | accessid )
        [\w.-]{0,64}
      | sig | sign | key | auth | policy )=) [^&\s'"<>\#]*[^&\s'"<>\#:,;.)]""",
    re.IGNORECASE | re.VERBOSE,
)
"""Matches a secret parameter also in a query string without its URL, and in an object or file name that ends
in a query string."""

_SIGNED = re.compile(
    r"[?&](?:x-amz-|x-goog-|awsaccesskeyid|googleaccessid|signature|sig)[\w-]*=", re.IGNORECASE
)

_SECRETS = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "RAY_AUTH_TOKEN", "HF_TOKEN"),
    *("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CONNECTION_STRING"),
    *("AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET"),
)
_KEY_IN_CONNECTION = re.compile(r"(?:AccountKey|SharedAccessSignature)=([^;]+)")
"""Matches the secret in AZURE_STORAGE_CONNECTION_STRING."""
_URLS = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FACEQ_MODEL_MIRROR", "PIP_INDEX_URL"),
)
_SHORTEST = 8
"""Minimum number of characters of an environment value that is masked everywhere: shorter values also occur
inside ordinary words."""


def mask(text: str) -> str:
    """The text with each secret replaced by `***`. Text without secrets stays unchanged.

    Secrets are the user name and password of any URL, the whole query string of a web address, the values of
    signing parameters (`X-Amz-Signature`, `sig`, `token`, …), and the values of environment variables that
    hold a key.
    """
    return _mask(text, _secrets_of_environment())


def masked(value: Any) -> Any:
    """A JSON value with every string in it masked; keys stay unchanged."""
    return _masked(value, _secrets_of_environment())


def _masked(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return _mask(value, secrets)
    if isinstance(value, Mapping):
        return {key: _masked(each, secrets) for key, each in value.items()}
    return [_masked(each, secrets) for each in value] if isinstance(value, list | tuple) else value


def _mask(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    if "://" in text and "@" in text:
        text = _USER_INFO.sub(rf"\1{MASK}@", text)
    if "?" in text or "&" in text:
        text = _PARAMETER.sub(rf"\1{MASK}", _QUERY.sub(rf"\1{MASK}", text))
    return text


def mask_error(error: BaseException) -> None:
    """Mask, in place, the message of an error that another library raised, and those of its causes."""
    current: BaseException | None = error
    done: list[BaseException] = []
    while current is not None and not any(current is each for each in done):
        done.append(current)
        current.args = tuple(mask(each) if isinstance(each, str) else each for each in current.args)
        # botocore rebuilds the message from these when an error is sent to another process.
        kwargs = getattr(current, "kwargs", None)
        if isinstance(kwargs, dict):
            kwargs.update((key, mask(value)) for key, value in list(kwargs.items()) if isinstance(value, str))
        current = current.__cause__ or current.__context__


def holds_secret(uri: str) -> bool:
    """Whether a URI contains credentials: a user name, a password or a signature."""
    return bool(("@" in uri and _USER_INFO.match(uri)) or ("=" in uri and _SIGNED.search(uri)))


def _secrets_of_environment() -> list[str]:
    found = [os.environ.get(name, "").strip() for name in _SECRETS]
    found += _KEY_IN_CONNECTION.findall(os.environ.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    for name in _URLS:
        value = os.environ.get(name)
        if value:
            password = _password(value)
            found += [password, unquote(password)]
    return [each for each in found if len(each) >= _SHORTEST]


def _password(url: str) -> str:
    try:
        return urlsplit(url if "://" in url else f"//{url}").password or ""
    except ValueError:  # brackets without a valid IPv6 address
        return ""
