"""Run a small HTTP server in a thread of the tests."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer


class QuietServer(ThreadingHTTPServer):
    """A server for many clients at once, which may close their connections at any time."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Run a server until the end of the block. Returns its address."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
