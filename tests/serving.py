"""An HTTP server on this machine that misbehaves on request."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files`; each request takes the next of its path's `moods`, or behaves well if there is none left.

    Moods: `cut N` closes after N bytes of the body, `reset N` breaks the connection there, `stall N` falls silent,
    `chunked N` closes after N bytes without ever telling a length, `norange` sends all, `status CODE`,
    `redirect PATH`, `silent` never answers.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.moods: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str | None]] = []      # path, Range header
        self.over = threading.Event()
        self.lock = threading.Lock()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked.append((self.path, self.headers["Range"]))
            moods = self.server.moods.get(self.path, [])
            mood, _, number = (moods.pop(0) if moods else "well").partition(" ")
        self.close_connection = True
        if mood == "silent":
            self.server.over.wait(10)
        elif mood == "redirect":
            self.send_response(302)
            self.send_header("Location", self.server.url(number))
            self.finish_headers(0)
        elif mood == "status" or self.path not in self.server.files:
            self.send_response(int(number or 404))
            self.finish_headers(0)
        else:
            self.send_file(mood, int(number or 0))

    def send_file(self, mood: str, number: int) -> None:
        body, asked = self.server.files[self.path], self.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and mood != "norange" else 0
        if start >= len(body) > 0:
            self.send_response(416)
            self.finish_headers(0)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.finish_headers(None if mood == "chunked" else len(body) - start)
        part = body[start:start + number] if mood in ("cut", "reset", "stall", "chunked") else body[start:]
        self.wfile.write(part)
        self.wfile.flush()
        if mood == "reset":     # linger 0: the peer sees "connection reset by peer"
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if mood == "stall":
            self.server.over.wait(10)

    def finish_headers(self, length: int | None) -> None:
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()
