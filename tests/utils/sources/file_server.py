"""A local HTTP server that gives files well or badly."""

import json
import random
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def weights(size: int, seed: int = 0) -> bytes:
    """Return a safetensors file of this many bytes, the header included."""
    count = size - 128
    facts = {"a": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}
    return (
        (120).to_bytes(8, "little")
        + json.dumps(facts).ljust(120).encode()
        + random.Random(seed).randbytes(count)
    )


class FileServer(ThreadingHTTPServer):
    """Gives `data` at every path; what is set on it makes it misbehave."""

    daemon_threads = True

    def __init__(self, data: bytes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data = data
        self.headers = {"ETag": '"v1"', "Content-Type": "application/octet-stream"}
        self.ranges = True
        self.status: dict[str, int] = {}
        """Of paths that are refused."""
        self.redirects: dict[str, str] = {}
        self.cut: Callable[[], int] | None = None
        """Says after how many bytes of a response the connection ends."""
        self.pause = 0.0
        """Before each piece of a response."""
        self.pieces = 10
        self.announce = True
        """Whether the length of a response is said."""
        self.obeys = True
        """Whether If-Range is heeded."""
        self.requests: list[tuple[str, str | None]] = []
        """Path and Range of each."""

    def url(self, path: str = "/model.pt") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.requests.append((self.path, wanted))
        if self.path in server.redirects:
            self._answer(302, {"Location": server.redirects[self.path]}, b"")
        elif self.path in server.status:
            self._answer(server.status[self.path], {}, b"no")
        else:
            self._give(wanted)

    def _give(self, wanted: str | None):
        server, data, start = self.server, self.server.data, 0
        current = {server.headers.get("ETag"), server.headers.get("Last-Modified")}
        same = self.headers.get("If-Range") in {None, *current} or not server.obeys
        if wanted and server.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self._answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
                return
        extra = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._answer(206 if start else 200, {**server.headers, **extra}, data[start:])

    def _answer(self, status: int, headers: dict[str, str], body: bytes):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.announce:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status in (200, 206) and self.server.cut is not None:
            body = body[: self.server.cut()]
        step = max(1, len(body) // self.server.pieces) if self.server.pause else max(1, len(body))
        for i in range(0, len(body), step):
            time.sleep(self.server.pause)
            self.wfile.write(body[i : i + step])


@contextmanager
def serve(data: bytes):
    """Run a server in a thread."""
    server = FileServer(data)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
