"""Secrets in text: passwords in URLs, signatures in their queries, keys in the environment.

What faceq writes for others to read goes through `mask`: errors, logs, the records and rows of tables.
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
      | [^\s/?\#@:[]{1,512} : (?!\d{1,5}(?:[/?\#\s]|$))  # what follows is no port, but a key with slashes
        [^\s@]{0,512} ) @""",
    re.IGNORECASE | re.VERBOSE,
)
_QUERY = re.compile(
    r"""((?: https?:// | \bwith\ url:\ ) [^\s'"<>?]{1,2048} \?)  # the second one is of urllib3's errors
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
"""Of a query without its address, and of an object or a file whose name ends in one."""

_SIGNED = re.compile(
    r"[?&](?:x-amz-|x-goog-|awsaccesskeyid|googleaccessid|signature|sig)[\w-]*=", re.IGNORECASE
)

_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "RAY_AUTH_TOKEN")
_URLS = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FACEQ_MODEL_MIRROR", "PIP_INDEX_URL"),
)
_SHORTEST = 8
"""Characters of a value of the environment that is masked wherever it stands: shorter ones are in words."""


def mask(text: str) -> str:
    """The text with `***` in place of the secrets in it; text without any stays as it is.

    Secrets are the user name and password of any URL, the whole query of a web address, the values of signing
    parameters (`X-Amz-Signature`, `sig`, `token`, …), and the values of the environment that hold a key.
    """
    return _mask(text, _of_environment())


def masked(value: Any) -> Any:
    """A value of JSON with all strings in it masked; keys stay."""
    return _masked(value, _of_environment())


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


def clean(error: BaseException) -> None:
    """Mask the messages of an error that another library raised, and of those that led to it."""
    one: BaseException | None = error
    done: list[BaseException] = []
    while one is not None and not any(one is each for each in done):
        done.append(one)
        one.args = tuple(mask(each) if isinstance(each, str) else each for each in one.args)
        # botocore makes the message anew from these when an error goes to another process.
        named = getattr(one, "kwargs", None)
        if isinstance(named, dict):
            named.update((key, mask(value)) for key, value in list(named.items()) if isinstance(value, str))
        one = one.__cause__ or one.__context__


def holds_secret(uri: str) -> bool:
    """Whether a place is named together with what opens it: a user name, a password, a signature."""
    return bool(("@" in uri and _USER_INFO.match(uri)) or ("=" in uri and _SIGNED.search(uri)))


def _of_environment() -> list[str]:
    found = [os.environ.get(name, "").strip() for name in _SECRETS]
    for name in _URLS:
        value = os.environ.get(name)
        if value:
            password = _password(value)
            found += [password, unquote(password)]
    return [each for each in found if len(each) >= _SHORTEST]


def _password(url: str) -> str:
    try:
        return urlsplit(url if "://" in url else f"//{url}").password or ""
    except ValueError:  # brackets that are no IPv6 address
        return ""
