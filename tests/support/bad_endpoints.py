"""Servers that are not S3, at the address of an S3 endpoint."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

from serving import QuietServer, serving

PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><p>Hello<br></body></html>"
XML = b"<html><head><title>ok</title></head><body/></html>"
"""A page that is valid XML."""


@contextlib.contextmanager
def web_server(status: int, body: bytes, location: str = "") -> Iterator[str]:
    """Start a server that answers all requests in the same way. Returns its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with serving(QuietServer(("127.0.0.1", 0), Handler)) as running:
        yield running


@contextlib.contextmanager
def other_protocol(answer: bytes) -> Iterator[str]:
    """Start a server that answers the first bytes of each connection and closes it. Returns its address."""

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(1 << 16)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def address(text: str) -> Iterator[str]:
    yield text


@contextlib.contextmanager
def https_without_tls() -> Iterator[str]:
    with web_server(200, PAGE) as plain:
        yield plain.replace("http://", "https://")


ENDPOINTS: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "page": lambda: web_server(200, PAGE),
    "page-as-xml": lambda: web_server(200, XML),
    "nothing-in-it": lambda: web_server(200, b""),
    "forbidden": lambda: web_server(403, PAGE),
    "redirect": lambda: web_server(301, PAGE, "http://127.0.0.1:9/"),
    "broken": lambda: web_server(500, PAGE),
    "ssh": lambda: other_protocol(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "garbage": lambda: other_protocol(bytes(range(200))),
    "hangs-up": lambda: other_protocol(b""),
    "tls": https_without_tls,
    "nobody": lambda: address("http://127.0.0.1:9"),
    "no-such-host": lambda: address("http://no-such-host.invalid"),
    "no-scheme": lambda: address("127.0.0.1:9000"),
    "no-url": lambda: address("http://[::1"),
}
"""The servers at the endpoint, by name."""

MISNAMED = ("no-scheme", "no-url")
"""Addresses that cannot be an endpoint at all."""
