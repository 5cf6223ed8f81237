"""What is not the rows' fault: proxies, certificates, an outage, files that were altered later."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from web_server import WebServer

from data import download_urls_multithreading
from data.download import scheduler
from data.download.fetch import CA_VARIABLES, Fetcher, FetchError, Limits, robots_directives
from data.lists.rows import read_rows


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def run(tmp_path, web, monkeypatch) -> Callable[..., int]:
    """Downloads ten images to `images`, or continues with them."""
    monkeypatch.setattr(scheduler, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(scheduler, "OFFLINE_PAUSE_SECONDS", 0.05)
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in CA_VARIABLES:
            monkeypatch.delenv(name)
    url_list = tmp_path / "urls.txt"
    url_list.write_text("".join(web.url(f"ok/{n}.jpg") + "\t1:1\n" for n in range(10)))
    save_dir = tmp_path / "images"
    command = ["--url_list", str(url_list), "--save_dir", str(save_dir)]
    return lambda *more: download_urls_multithreading.main([*command, *more])


def without_pysocks(*arguments, **options):
    raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "ALL_PROXY: a SOCKS proxy needs PySocks: pip"),
        ("http_proxy", "http://me:secret@host:port", "http_proxy is not the address of a proxy"),
        ("HTTPS_PROXY", "htp://host:3128", "HTTPS_PROXY is not the address of a proxy"),
        ("HTTP_PROXY", "http://", "HTTP_PROXY is not the address of a proxy"),
        ("REQUESTS_CA_BUNDLE", "/none.pem", "REQUESTS_CA_BUNDLE=/none.pem: No such file"),
        ("SSL_CERT_FILE", __file__, f"SSL_CERT_FILE={__file__}: no certificates; correct it"),
    ],
)
def test_settings_of_no_use_are_one_line_and_touch_no_row(
    run, tmp_path, web, monkeypatch, capsys, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    # As where PySocks is not installed.
    monkeypatch.setattr(requests.adapters, "SOCKSProxyManager", without_pysocks)
    assert run() == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert "secret" not in error
    assert not (tmp_path / "images").exists() and not web.requests
    monkeypatch.delenv(name)
    assert run() == 0
    assert sum(1 for _ in read_rows(tmp_path / "images" / "im_list.txt")) == 10


def test_a_proxy_that_is_down_marks_no_row(run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert run() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no network, name server or proxy: ") and error.count("\n") == 1
    monkeypatch.delenv("HTTP_PROXY")
    assert run() == 0
    assert sum(1 for _ in read_rows(tmp_path / "images" / "im_list.txt")) == 10


def test_rows_that_failed_by_an_outage_are_asked_for_by_the_next_run(run, tmp_path, web) -> None:
    """The network fails for good after the first answer: rows end as offline, not for ever."""
    fetch, asked = Fetcher.fetch, []

    def fail_after_one(self: Fetcher, url: str) -> tuple[bytes, str]:
        asked.append(url)
        if len(asked) > 1:
            raise FetchError("offline", "no resolver", is_transient=True)
        return fetch(self, url)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fetcher, "fetch", fail_after_one)
        patch.setattr(scheduler, "OFFLINE_PAUSES", 1)
        assert run("--num_threads", "1", "--retries", "0") == 0
    assert sum(1 for _ in read_rows(tmp_path / "images" / "invalid_url.txt")) == 9
    assert run() == 0
    assert sum(1 for _ in read_rows(tmp_path / "images" / "im_list.txt")) == 10
    assert sum(web.requests.values()) == 10


def test_altered_files_are_downloaded_again(run, tmp_path, web, capsys) -> None:
    def images() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "images").glob("*.jpg")}

    assert run() == 0
    before = images()
    deleted, emptied, cut, altered, *_ = before
    deleted.unlink()
    emptied.write_bytes(b"")
    cut.write_bytes(before[cut][:-1])
    altered.write_bytes(before[altered][:-1] + b"?")
    web.requests.clear()
    capsys.readouterr()
    assert run() == 0  # sizes are compared in every run
    assert "3 images were deleted or altered since" in capsys.readouterr().err
    assert sum(web.requests.values()) == 3 and images()[altered] != before[altered]
    assert run("--verify") == 0
    assert "1 images were deleted or altered since" in capsys.readouterr().err
    assert sum(web.requests.values()) == 4 and images() == before
    assert run("--verify") == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "10 rows: 10 ok (0 converted)" in captured.out
    assert sum(web.requests.values()) == 4


def test_a_image_whose_host_opts_out_is_left_alone(tmp_path, web, capsys) -> None:
    url_list, save_dir = tmp_path / "urls.txt", tmp_path / "images"
    kinds = ("ok", "opted_out", "opted_out_for_all")
    url_list.write_text("".join(web.url(f"{kind}/1.jpg") + "\t1:1\n" for kind in kinds))
    command = ["--url_list", str(url_list), "--save_dir", str(save_dir)]
    assert download_urls_multithreading.main(command) == 0
    assert "1 opted_out" in capsys.readouterr().out
    assert [row.image for row in read_rows(save_dir / "invalid_url.txt")] == [
        web.url("opted_out_for_all/1.jpg")
    ]
    assert download_urls_multithreading.main([*command, "--retry_failed", "--opt_outs", ""]) == 0
    assert "3 rows: 3 ok" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("noai, noimageai", {"noai", "noimageai"}),
        ("None", {"noindex", "nofollow"}),
        ("googlebot: noindex, noai", set()),
        ("ml-images-download: noai", {"noai"}),
        ("unavailable_after: 25 Jun 2010 15:00:00 PST, noai", {"25 jun 2010 15:00:00 pst", "noai"}),
        ("", {""}),
    ],
)
def test_directives_that_are_meant_for_us(header: str, found: set[str]) -> None:
    assert robots_directives(header, "Mozilla/5.0 (compatible; ml-images-download)") == found


def test_interim_answers_and_raw_locations(web) -> None:
    fetcher = Fetcher(Limits(1, 1, 2), threads=1)
    for number in range(2):  # the connection is used again
        assert fetcher.fetch(web.url(f"hinted/{number}.jpg"))[1].endswith(f"hinted/{number}.jpg")
    assert fetcher.fetch(web.url("moved_latin1/3.jpg"))[1] == web.url("ok/caf%E9/3.jpg")
    assert fetcher.fetch(web.url("moved_utf8/3.jpg"))[1] == web.url("ok/caf\u00e9/3.jpg")
    with pytest.raises(FetchError) as found:
        fetcher.fetch(web.url("hints_only/1.jpg"))
    assert found.value.kind == "connection"
