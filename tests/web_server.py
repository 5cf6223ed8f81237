"""A local web server with every bad habit that a list of old URLs meets.

`/KIND/N.jpg` answers as `_Handler.KIND` does; N makes the image a different one.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import numpy as np
from PIL import Image

PLACEHOLDER_BYTES = 2051
_END = b"\r\n\r\n"


@cache
def _photograph(width: int = 120, height: int = 90) -> bytes:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([2 * x, 2 * y, 3 * np.abs(x - y)], -1).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_image(number: int) -> bytes:
    """A JPEG that differs from that of another number in a comment only."""
    comment = b"number %08d" % number
    data = _photograph()
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


@cache
def placeholder() -> bytes:
    """A whole GIF of the size of Flickr's, for whatever URL."""
    buffer = io.BytesIO()
    Image.new("P", (50, 40)).save(buffer, "GIF")
    return buffer.getvalue().ljust(PLACEHOLDER_BYTES, b"\0")


@cache
def bomb() -> bytes:
    """A PNG of 100 million pixels in 12 kB."""
    buffer = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    return buffer.getvalue()


@cache
def gzip_bomb() -> bytes:
    return gzip.compress(bytes(16 << 20))


class WebServer(ThreadingHTTPServer):
    """Serves on 127.0.0.1 while the block lasts; `requests` counts paths asked for."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        bomb(), gzip_bomb()  # made now, because clients do not wait
        self.requests: Counter[str] = Counter()
        self.open_requests: Counter[str] = Counter()  # by host name
        self.most_at_once: Counter[str] = Counter()
        self.connections = 0
        self.delay_seconds = 0.0
        self.closing = threading.Event()
        self.released = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> WebServer:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.released.set()
        self.shutdown()
        self.server_close()

    def process_request(self, *arguments: object) -> None:
        self.connections += 1
        super().process_request(*arguments)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_address[1]}/{path}"

    def begin(self, host: str, path: str) -> int:
        """Notes a request; returns how often the path was asked for before."""
        with self._lock:
            self.open_requests[host] += 1
            self.most_at_once[host] = max(self.most_at_once[host], self.open_requests[host])
            self.requests[path] += 1
            return self.requests[path] - 1

    def end(self, host: str) -> None:
        with self._lock:
            self.open_requests[host] -= 1

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        host = self.headers["Host"].partition(":")[0]
        self.asked_before = self.server.begin(host, self.path)
        kind, _, name = self.path.lstrip("/").partition("/")
        self.number = int(re.sub(r"\D", "", name) or 0)
        try:
            self.server.closing.wait(self.server.delay_seconds)
            getattr(self, kind, self.ok)()
        finally:
            self.server.end(host)

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        headers = {"Content_Type": "image/jpeg", "Content_Length": len(body)} | headers
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def ok(self) -> None:
        self.answer(make_image(self.number))

    def gone(self) -> None:
        self.answer(b"gone", 404)

    def busy_once(self) -> None:
        if self.asked_before:
            self.ok()
        else:
            self.answer(b"", 429, Retry_After="1")

    def retry_after(self) -> None:
        self.answer(b"", 429, Retry_After=unquote(self.path.rpartition("/")[2]))

    def always_busy(self) -> None:
        self.answer(b"", 429, Retry_After="0")

    def broken_once(self) -> None:
        self.answer(b"", 500) if not self.asked_before else self.ok()

    def broken(self) -> None:
        self.answer(b"", 503)

    def html(self) -> None:
        self.answer(b"<html><body>photo not found</body></html>")

    def placeholder(self) -> None:
        self.answer(placeholder())

    def mirrored(self) -> None:
        self.answer(make_image(12345678))  # one body under many URLs, known to no list

    def empty(self) -> None:
        self.answer(b"")

    def truncated(self) -> None:
        self.close_connection = True
        body = make_image(self.number)
        self.answer(body[: len(body) // 2], Content_Length=len(body))

    def truncated_once(self) -> None:
        self.ok() if self.asked_before else self.truncated()

    def truncated_silently(self) -> None:
        body = make_image(self.number)
        self.answer(body[: len(body) // 2])

    def reset(self) -> None:
        no_goodbye = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_goodbye)
        os.close(self.connection.detach())

    def reset_once(self) -> None:
        self.ok() if self.asked_before else self.reset()

    def loop(self) -> None:
        self.answer(b"", 302, Location=self.path)

    def zipped(self) -> None:
        self.answer(gzip.compress(make_image(self.number)), Content_Encoding="gzip")

    def moved(self) -> None:
        self.answer(b"moved", 301, Location=f"/ok/{self.number}.jpg")

    def hinted(self) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload" + _END
        self.wfile.write(b"HTTP/1.1 102 Processing" + _END + 2 * hints)
        self.ok()

    def hints_only(self) -> None:
        self.close_connection = True
        while not self.server.closing.is_set():
            self.wfile.write(b"HTTP/1.1 103 Early Hints" + _END)

    def moved_latin1(self) -> None:
        self.answer(b"", 302, Location=f"/ok/caf\xe9/{self.number}.jpg")

    def moved_utf8(self) -> None:
        self.answer(b"", 302, Location=f"/ok/caf\xc3\xa9/{self.number}.jpg")

    def opted_out(self) -> None:
        self.answer(make_image(self.number), X_Robots_Tag="otherbot: noindex, NoAI")

    def opted_out_for_all(self) -> None:
        self.answer(make_image(self.number), X_Robots_Tag="max-snippet: 5, NoAI")

    def to_file(self) -> None:
        self.answer(b"", 302, Location="file:///etc/passwd")

    def to_photo_unavailable(self) -> None:
        self.answer(b"", 302, Location="/pw/photo_unavailable.png")

    def huge(self) -> None:
        self.close_connection = True
        self.answer(b"x" * 1000, Content_Length=10 << 30)

    def endless(self) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK" + _END)
        while not self.server.closing.is_set():
            self.wfile.write(bytes(1 << 16))

    def held(self) -> None:
        """200 kB, and then nothing before the test sets `released`."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK" + _END + bytes(200_000))
        self.server.released.wait(60)

    def gzip_bomb(self) -> None:
        self.answer(gzip_bomb(), Content_Encoding="gzip")

    def bomb(self) -> None:
        self.answer(bomb())

    def trickle(self) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000" + _END, b"x")

    def header_trickle(self) -> None:
        self._drip(b"HTTP/1.1 200 OK\r\nX-Header: ", b"x")

    def silent(self) -> None:
        self.server.closing.wait(60)

    def not_http(self) -> None:
        self.close_connection = True
        self.wfile.write(b"\xff\xd8 no status line here\r\n")

    def _drip(self, start: bytes, more: bytes) -> None:
        self.close_connection = True
        self.wfile.write(start)
        end = time.monotonic() + 60
        while time.monotonic() < end and not self.server.closing.wait(0.05):
            self.wfile.write(more)
