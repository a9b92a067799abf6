"""Requests over HTTP that are repeated when they fail for a reason that may pass.

A host that asks for a pause (429 or 503 with Retry-After) gets it: no request of this process goes to it
until then.
"""

import asyncio
import email.utils
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import aiohttp

from faceq.storage.answers import code_of, refusal

ATTEMPTS = 6
"""Number of attempts for one request. The last one starts about 15 seconds after the first, unless the host
asks for a longer pause."""

LONGEST_PAUSE_S = 120
"""Longest pause that a host may ask for; if it asks for more, the request fails."""

CONNECTIONS_PER_HOST = 8
"""Maximum number of connections of a process to one host."""

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)

_FIRST_PAUSE_S = 0.5
_TRANSIENT = {"408", "425", "429", "500", "502", "503", "504"}

T = TypeVar("T")


class Hosts:
    """The pauses that hosts asked for, by name."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def pause(self, host: str, seconds: float) -> None:
        self._until[host] = max(self._until.get(host, 0), time.monotonic() + seconds)

    async def wait(self, host: str) -> None:
        """Wait until the pause of a host is over."""
        while (left := self._until.get(host, 0) - time.monotonic()) > 0:
            await asyncio.sleep(left)


async def attempt(send: Callable[[], Awaitable[T]], host: str, hosts: Hosts) -> T:
    """The result of `send`, which is called again if it fails for a reason that may pass.

    Args:
        send: sends one request. It raises `failed` for a response that is an error.
        host: the host of the request.
        hosts: the pauses of all hosts.
    """
    for number in range(ATTEMPTS):
        await hosts.wait(host)
        try:
            return await send()
        except (OSError, aiohttp.ClientError) as error:
            asked = getattr(error, "retry_after", None)
            if number == ATTEMPTS - 1 or not _may_pass(error) or (asked or 0) > LONGEST_PAUSE_S:
                raise
            if asked is not None:
                hosts.pause(host, asked)
            else:
                await asyncio.sleep(_FIRST_PAUSE_S * 2**number * random.uniform(0.5, 1))
    raise AssertionError  # the last attempt returns or raises


def failed(
    status: int, headers: Mapping[str, str], message: str = "", advice: str = "", code: str = ""
) -> OSError:
    """The error for a response; see `refusal`. Its `retry_after` is the pause that the host asks for, in
    seconds, None if it asks for none."""
    asked = _pause_of(headers.get("Retry-After"))
    if asked is not None and asked > LONGEST_PAUSE_S:
        advice = f"the host asks to wait {asked:.0f} s: try again later"
    error = refusal(status, message, advice, code)
    error.retry_after = asked  # type: ignore[attr-defined]
    return error


def _pause_of(value: str | None) -> float | None:
    """The pause of a Retry-After header in seconds, which is a number or a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (until.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _may_pass(error: Exception) -> bool:
    if code := code_of(error):
        return code in _TRANSIENT
    # A name that does not exist, or a certificate that is not valid, will not be right in a few seconds.
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return getattr(error.os_error, "errno", None) != socket.EAI_NONAME
    lasting = aiohttp.InvalidURL | aiohttp.TooManyRedirects | aiohttp.ClientConnectorCertificateError
    return not isinstance(error, lasting | aiohttp.ClientSSLError)
