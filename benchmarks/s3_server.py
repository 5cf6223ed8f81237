"""An S3 server for tests and benchmarks: slow, limited or failing on purpose; ignores signatures.

    python benchmarks/s3_server.py FOLDER [--latency 0.03] [--bandwidth 200e6] [--fail_every 50]

Serves the subfolders of FOLDER as buckets, also to plain HTTP clients: GET with ranges, HEAD,
ListObjectsV2, PUT and DELETE. Prints its URL, and exits when its standard input closes. (moto's
server reads the full object for every range, which costs more than what is measured.)
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import os
import re
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

DENIED = "denied"
"""A bucket that refuses access."""
_PIECE = 1 << 17  # bytes sent at once
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def environment(url: str) -> dict[str, str]:
    """The variables by which clients find a server."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"} | dict.fromkeys(names, "x")


class S3Server:
    """Serves on 127.0.0.1, in threads, from `start` to `stop`; can be restarted.

    Args:
        folder: parent folder of the buckets.
        latency: seconds before each response.
        bandwidth: bytes per second of all responses together; 0: no limit.
        fail_every: one in this many requests fails, alternately with status 503 and by closing the
            connection in the middle of the response; 0: none.
        tls: server-side TLS context for https; None: http.

    Attributes:
        requests: how often each `METHOD /bucket/key range` was requested and answered.
        sent: bytes of file contents sent.
    """

    def __init__(
        self,
        folder: Path,
        latency: float = 0.0,
        bandwidth: float = 0.0,
        fail_every: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.folder, self.latency = folder, latency
        self.bandwidth, self.fail_every, self.tls = bandwidth, fail_every, tls
        self.requests: Counter[str] = Counter()
        self.sent = self._port = self._count = 0
        self._free_at = 0.0  # when the shared bandwidth is free for the next piece
        self._lock = threading.Lock()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients find it."""
        return environment(self.url)

    def __enter__(self) -> S3Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serves, on the same port as before."""
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.s3, self._port = self, self._server.server_address[1]
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Closes all connections; keeps the files."""
        if self._server:
            self._server.shutdown()
            self._server.cut()
            self._server.server_close()
            self._server = None

    def begin(self, request: str) -> int:
        """Counts a request; returns the number of the failure if it is to fail, else 0."""
        time.sleep(self.latency)
        with self._lock:
            self._count += 1
            number, rest = divmod(self._count, self.fail_every or self._count + 1)
            fails = 0 if rest else number
            self.requests[request] += not fails
            return fails

    def send(self, connection: socket.socket, file: BinaryIO, offset: int, size: int) -> None:
        """Sends a part of a file at the limited bandwidth."""
        while size > 0:
            piece = min(size, _PIECE)
            with self._lock:
                now = time.monotonic()
                self._free_at = max(self._free_at, now) + piece / (self.bandwidth or 1e15)
                wait = self._free_at - now
                self.sent += piece
            if wait > 0.001:
                time.sleep(wait)
            sent = connection.sendfile(file, offset, piece)
            offset, size = offset + sent, size - sent


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    s3: S3Server

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._connections: set[socket.socket] = set()

    def process_request(self, connection: socket.socket, address: object) -> None:
        self._connections.add(connection)
        super().process_request(connection, address)

    def shutdown_request(self, connection: socket.socket) -> None:
        self._connections.discard(connection)
        super().shutdown_request(connection)

    def cut(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Ignores clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # sends the response header in one piece
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def handle_expect_100(self) -> bool:
        proceeds = super().handle_expect_100()
        self.wfile.flush()
        return proceeds

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        address = urlsplit(self.path)
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = f"{self.command} /{bucket}/{key} {self.headers.get('Range', '')}".rstrip()
        self.fails = self.server.s3.begin(what)
        folder = self.server.s3.folder / bucket
        if self.fails % 2:
            self._error(503, "SlowDown")
        elif bucket == DENIED:
            self._error(403, "AccessDenied")
        elif not folder.is_dir():
            self._error(404, "NoSuchBucket")
        elif self.command == "PUT":
            self._put(folder / key, body)
        elif self.command == "DELETE":
            (folder / key).unlink(missing_ok=True)
            self._head(204, 0)
        elif not key and self.command == "GET":
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            self._list(folder, query.get("prefix", ""), query.get("delimiter", ""))
        elif not key or (folder / key).is_file():
            self._file(folder / key)
        elif key.endswith("/") and (folder / key).is_dir():
            self._page(folder / key)
        else:
            self._error(404, "NoSuchKey")

    def _put(self, path: Path, body: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{threading.get_ident()}")
        unfinished.write_bytes(body)
        os.replace(unfinished, path)
        self._head(200, 0, ETag=_etag(path))

    def _file(self, path: Path) -> None:
        if path.is_dir():  # a bucket
            self._head(200, 0)
            return
        size, begin, status, headers = path.stat().st_size, 0, 200, {}
        end = size
        if found := _RANGE.fullmatch(self.headers.get("Range", "")):
            begin, status = int(found[1]), 206
            end = min(size, int(found[2]) + 1) if found[2] else size
            headers = {"Content-Range": f"bytes {begin}-{end - 1}/{size}"}
            if begin >= size:
                self._error(416, "InvalidRange")
                return
        headers |= {"ETag": _etag(path), "Accept-Ranges": "bytes"}
        headers |= {"Content-Type": "application/octet-stream"}
        headers |= {"Last-Modified": email.utils.formatdate(path.stat().st_mtime, usegmt=True)}
        self._head(status, end - begin, **headers)
        if self.command == "GET":
            self.wfile.flush()
            half = (end - begin) // 2 if self.fails else end - begin
            with open(path, "rb") as file:
                self.server.s3.send(self.connection, file, begin, half)
            if self.fails:
                self._cut()

    def _list(self, folder: Path, prefix: str, delimiter: str) -> None:
        contents, common = [], set()
        files = (path for path in folder.rglob("*") if path.is_file())
        for path in sorted(files):
            key = path.relative_to(folder).as_posix()
            if not key.startswith(prefix):
                continue
            below, slash, _ = key[len(prefix) :].partition("/")
            if delimiter and slash:
                common.add(prefix + below + slash)
                continue
            status = path.stat()
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(status.st_mtime))
            contents.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
                f"<ETag>{escape(_etag(path))}</ETag><Size>{status.st_size}</Size></Contents>"
            )
        below = (f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in common)
        count = (
            f"<KeyCount>{len(contents) + len(common)}</KeyCount><IsTruncated>false</IsTruncated>"
        )
        text = "".join([count, *contents, *below])
        self._text(200, f"<ListBucketResult>{text}</ListBucketResult>", "application/xml")

    def _page(self, folder: Path) -> None:
        """A page of links, like Apache's folder listing; the first ones sort it."""
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
        names = ["?C=N;O=D", "?C=M;O=A", *names]
        links = (f'<a href="{escape(name)}">{escape(name)}</a>' for name in names)
        self._text(200, f"<html><body>{' '.join(links)}</body></html>", "text/html")

    def _error(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{code}: on purpose</Message></Error>"
        self._text(status, text, "application/xml")

    def _text(self, status: int, text: str, kind: str) -> None:
        body = text.encode()
        self._head(status, len(body), **{"Content-Type": kind})
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self._is_cut() else body)
        if self._is_cut():
            self._cut()

    def _is_cut(self) -> bool:
        return bool(self.fails) and self.fails % 2 == 0

    def _cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _head(self, status: int, size: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _etag(path: Path) -> str:
    status = path.stat()
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each response")
    parser.add_argument("--bandwidth", type=float, default=0.0, help="bytes/s; 0: no limit")
    parser.add_argument("--fail_every", type=int, default=0, help="one in this many requests fails")
    with S3Server(**vars(parser.parse_args())) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
