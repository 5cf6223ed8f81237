"""One request: what each failure is called, and whether another attempt may help."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from urllib.parse import quote

import pytest
from web_server import WebServer, make_image, placeholder

from data.common.errors import UserError
from data.common.images import ImageError
from data.download import fetch
from data.download.fetch import Fetcher, FetchError, Limits
from data.download.store import PLACEHOLDERS, Placeholders, Store


@pytest.fixture(scope="module")
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def fetcher() -> Fetcher:
    return Fetcher(Limits(1, 1, 2, 1_000_000, 3), threads=1)


def failure(fetcher: Fetcher, url: str) -> FetchError:
    with pytest.raises(FetchError) as found:
        fetcher.fetch(url)
    return found.value


def test_bodies_and_where_they_came_from(web, fetcher) -> None:
    assert fetcher.fetch(web.url("ok/1.jpg")) == (make_image(1), web.url("ok/1.jpg"))
    assert fetcher.fetch(web.url("moved/2.jpg")) == (make_image(2), web.url("ok/2.jpg"))
    assert fetcher.fetch(web.url("zipped/3.jpg")) == (make_image(3), web.url("zipped/3.jpg"))


def test_a_connection_is_used_again(web, fetcher) -> None:
    before = web.connections
    for number in range(5):
        fetcher.fetch(web.url(f"ok/{number}.jpg"))
    assert web.connections == before + 1


@pytest.mark.parametrize(
    ("path", "kind", "is_transient"),
    [
        ("gone/1.jpg", "http_404", False),
        ("broken/1.jpg", "http_503", True),
        ("loop/1.jpg", "redirects", False),
        ("truncated/1.jpg", "truncated", True),
        ("reset/1.jpg", "connection", True),
        ("silent/1.jpg", "time_out", True),
        ("trickle/1.jpg", "time_out", True),
        ("huge/1.jpg", "too_large", False),
        ("endless/1.jpg", "too_large", False),
        ("gzip_bomb/1.jpg", "too_large", False),
        ("to_file/1.jpg", "bad_url", False),
    ],
)
def test_failures(web, fetcher, path: str, kind: str, is_transient: bool) -> None:
    error = failure(fetcher, web.url(path))
    assert (error.kind, error.is_transient) == (kind, is_transient)


@pytest.mark.slow
def test_few_bodies_at_a_time_are_large(web, monkeypatch) -> None:
    monkeypatch.setattr(fetch, "LARGE_BYTES", 100_000)
    monkeypatch.setattr(fetch, "LARGE_AT_ONCE", 1)
    fetcher = Fetcher(Limits(1, 30, 1, 1_000_000, 3), threads=2)
    for _ in range(3):  # each gives its place back
        assert failure(fetcher, web.url("endless/1.jpg")).kind == "too_large"
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(fetcher.fetch, web.url("held/1.jpg"))
        try:
            # Until the other thread has the only place, there is one for this body.
            errors = (failure(fetcher, web.url("endless/1.jpg")) for _ in range(1000))
            error = next(error for error in errors if error.kind != "too_large")
            assert (error.kind, error.is_transient) == ("time_out", True)
            assert fetcher.fetch(web.url("ok/1.jpg"))[0] == make_image(1)
        finally:
            web.released.set()
        assert len(large.result()[0]) == 200_000
    assert failure(fetcher, web.url("endless/1.jpg")).kind == "too_large"


def test_tls_and_refused_connections(web, fetcher) -> None:
    assert failure(fetcher, web.url("ok/1.jpg").replace("http:", "https:")).kind == "tls"
    error = failure(fetcher, "http://127.0.0.1:1/")
    assert (error.kind, error.is_transient) == ("unreachable", True)


@pytest.mark.parametrize(
    ("code", "kind"), [(socket.EAI_NONAME, "unreachable"), (socket.EAI_AGAIN, "offline")]
)
def test_names_that_are_not_found(fetcher, monkeypatch, code: int, kind: str) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(code, "no address")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert failure(fetcher, "http://old-host.example/1.jpg").kind == kind


def test_busy_hosts_say_how_long(web, fetcher) -> None:
    error = failure(fetcher, web.url("busy_once/9.jpg"))
    assert (error.kind, error.is_throttled, error.retry_after) == ("http_429", True, 1.0)

    def seconds(retry_after: str) -> float | None:
        return failure(fetcher, web.url(f"retry_after/{quote(retry_after)}")).retry_after

    soon = datetime.now(timezone.utc) + timedelta(seconds=100)
    assert 95 < seconds(format_datetime(soon)) <= 100
    assert seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [seconds(text) for text in ("", "soon", "-5")] == [None] * 3
    assert failure(fetcher, web.url("broken/1.jpg")).retry_after is None  # no such header


def test_placeholders(tmp_path) -> None:
    known = Placeholders()
    assert known.match(b"", "https://s.yimg.com/pw/images/en-us/photo_unavailable.png")
    assert not known.match(placeholder(), "http://x/1.jpg")
    more = tmp_path / "more.txt"
    digests = (hashlib.sha256(placeholder()), hashlib.md5(b"logo"))
    more.write_text(
        "".join(f"# an image\n{d.name}:{d.hexdigest().upper()} note\n\n" for d in digests)
    )
    known = Placeholders([PLACEHOLDERS, more])
    assert known.match(placeholder(), "") and known.match(b"logo", "")
    assert not known.match(b"another", "")
    more.write_text("md5:12\n")
    with pytest.raises(UserError, match=r"more\.txt:1: neither"):
        Placeholders([more])


def test_the_store_leaves_nothing_of_what_it_refuses(tmp_path) -> None:
    store = Store(tmp_path / "images", Placeholders())
    with pytest.raises(ImageError):
        store.store(make_image(1)[:-100], "http://x", "a.jpg", ".1.part")
    stored = store.store(make_image(1), "http://x", "ab/b.jpg", ".2.part")
    assert stored == (len(make_image(1)), hashlib.sha256(make_image(1)).hexdigest(), 120, 90, False)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "images" / "ab" / "b.jpg"]
