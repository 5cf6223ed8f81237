"""checkpoints/fetch.py and verify.py: from archives, folders and a web server that hangs up."""

import re
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import numpy_network
import pytest

from checkpoints import fetch, verify
from checkpoints.transfer import Limits, download
from data.common.errors import UserError
from data.common.files import sha256
from models.architecture import variable_shapes
from models.checkpoints import checkpoint

NAME = "resnet.ckpt"
DATA = ".data-00000-of-00001"
QUICK = Limits(silence_seconds=5, total_seconds=30, pause_seconds=0.01)


class Server(ThreadingHTTPServer):
    """Serves a folder with ranges; `cut_after` bytes of a body it hangs up, `cuts` times."""

    daemon_threads = True
    cut_after, cuts, ranges = 0, 0, ()

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        self.server.ranges += (start,)
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        kind = "text/html" if path.suffix == ".html" else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        if self.server.cuts and len(body) - start > self.server.cut_after:
            self.server.cuts -= 1
            self.wfile.write(body[start : start + self.server.cut_after])
            self.close_connection = True
            return
        self.wfile.write(body[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def source(tmp_path) -> Path:
    """The folder of a sound checkpoint."""
    return save(tmp_path / "source")


@pytest.fixture
def server(source):
    with Server(source) as running:
        yield running
        running.shutdown()


def save(folder: Path, **changes: np.ndarray) -> Path:
    weights = numpy_network.random_weights(variable_shapes(14, 3, width=8))
    checkpoint.save(folder / NAME, {**weights, "global_step": 9, **changes}, {})
    return folder


def run_fetch(*arguments: object) -> int:
    return fetch.main([*map(str, arguments), "--silence_seconds=5"])


def assert_same(prefix: Path, source: Path) -> None:
    for suffix in (DATA, ".index", ".json"):
        ours, theirs = Path(f"{prefix}{suffix}"), source / f"{NAME}{suffix}"
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_cut_download_goes_on_where_it_was(server, source, tmp_path):
    server.cut_after, server.cuts = 5000, 3
    target = tmp_path / "data"
    download(server.url(f"{NAME}{DATA}"), target, QUICK)
    assert target.read_bytes() == (source / f"{NAME}{DATA}").read_bytes()
    assert server.ranges == (0, 5000, 10000, 15000)
    assert [path.name for path in tmp_path.iterdir() if "data." in path.name] == []


def test_a_later_start_goes_on_too(server, source, tmp_path, capsys):
    server.cut_after, server.cuts = 5000, 1
    one_try = Limits(attempts=1)
    with pytest.raises(UserError, match="start again to continue at byte 5000"):
        fetch.fetch(server.url(NAME), tmp_path / "to", "mine", {}, one_try)
    assert not list((tmp_path / "to").glob("mine*"))
    fetch.fetch(server.url(NAME), tmp_path / "to", "mine", {}, one_try)
    assert server.ranges[-1] == 5000
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == sorted(
        f"mine{suffix}" for suffix in (DATA, ".index", ".sha256")
    )
    assert verify.main([str(tmp_path / "to" / "mine")]) == 0
    assert "ok   " in capsys.readouterr().out


def test_a_file_that_changed_meanwhile_is_found_and_the_next_start_begins_anew(
    server, source, tmp_path
):
    server.cut_after, server.cuts = 5000, 1
    to, served = tmp_path / "to", source / f"{NAME}{DATA}"
    with pytest.raises(UserError, match="start again to continue at byte 5000"):
        fetch.fetch(server.url(NAME), to, None, {}, Limits(attempts=1))
    right = served.read_bytes()
    served.write_bytes(right[::-1])
    with pytest.raises(UserError, match=r"[Cc]hecksum"):
        fetch.fetch(server.url(NAME), to, None, {}, QUICK)
    assert list(to.iterdir()) == []
    served.write_bytes(right)
    fetch.fetch(server.url(NAME), to, None, {}, QUICK)
    assert (to / f"{NAME}{DATA}").read_bytes() == right


def test_a_smaller_file_starts_anew(server, source, tmp_path):
    served = source / "file"
    served.write_bytes(b"new")
    (tmp_path / "file.part").write_bytes(b"what was longer before")
    download(server.url("file"), tmp_path / "file", QUICK)
    assert (tmp_path / "file").read_bytes() == b"new"
    (tmp_path / "whole.part").write_bytes(b"new")
    served.rename(source / "whole")
    download(server.url("whole"), tmp_path / "whole", QUICK)
    assert (tmp_path / "whole").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "limits", "message"),
    [
        ("absent", QUICK, "HTTP 404"),
        ("page.html", QUICK, "a web page, not a file; download with a browser"),
        (f"{NAME}{DATA}", Limits(max_bytes=1000), "more than the limit of 1000"),
        (f"{NAME}{DATA}", Limits(total_seconds=-1), "not complete after -1 seconds"),
    ],
)
def test_limits_and_refusals(server, source, tmp_path, name, limits, message):
    (source / "page.html").write_text("<html>click here</html>")
    with pytest.raises(UserError, match=message):
        download(server.url(name), tmp_path / "x", limits)


def test_what_is_no_url_and_no_server_is_refused(tmp_path):
    with pytest.raises(UserError, match="http://"):
        download("http://", tmp_path / "x", QUICK)
    nobody = Limits(attempts=2, pause_seconds=0.01)
    with pytest.raises(UserError, match="ConnectionError, 2 times"):
        download("http://127.0.0.1:9/x", tmp_path / "x", nobody)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("way", ["path", "url"])
def test_archives_are_unpacked(server, source, tmp_path, kind, way):
    files = [path for path in sorted(source.iterdir()) if path.name.startswith(NAME)]
    archive = source / f"released.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as held:
            for path in files:
                held.write(path, f"folder/../../{path.name}")
    else:
        with tarfile.open(archive, "w:gz") as held:
            for path in files:
                held.add(path, f"folder/{path.name}")
    given = server.url(archive.name) if way == "url" else archive
    assert run_fetch(given, "--to", tmp_path / "to") == 0
    assert_same(tmp_path / "to" / NAME, source)
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        f"{NAME}{suffix}" for suffix in (DATA, ".index", ".json", ".sha256")
    }


def test_a_folder_is_copied_and_nothing_is_overwritten(source, tmp_path, capsys):
    to = tmp_path / "to"
    assert run_fetch(source, "--to", to, "--name", "other") == 0
    assert capsys.readouterr().out == f"{to / 'other'}\n"
    assert_same(to / "other", source)
    assert run_fetch(source, "--to", to, "--name", "other") == 1
    assert "exists: choose another --name" in capsys.readouterr().err
    assert run_fetch(source, "--to", to) == 0
    assert run_fetch(source, "--to", to) == 1  # and keeps what may have taken hours to arrive
    assert any(to.glob(".fetch-*/*.index"))
    assert run_fetch(source, "--to", to, "--name", "third") == 0
    assert not any(to.glob(".fetch-*"))


def test_another_sha256_is_refused(source, tmp_path, capsys):
    right = sha256(source / f"{NAME}{DATA}")
    arguments = (source, "--to", tmp_path / "to", "--sha256")
    assert run_fetch(*arguments, f"{NAME}{DATA}={right[::-1]}") == 1
    assert "its SHA-256 differs from --sha256" in capsys.readouterr().err
    assert run_fetch(*arguments, f"absent={right}") == 1
    assert "names absent, which is not one of" in capsys.readouterr().err
    assert list((tmp_path / "to").iterdir()) == []
    assert run_fetch(*arguments, f"{NAME}{DATA}={right.upper()}") == 0


def test_unsound_checkpoints_are_told_and_not_fetched(tmp_path, capsys):
    variance = "stages_0_block_0/conv1_b2_bn/batch_normalization/moving_variance"
    save(tmp_path / "negative", **{variance: np.full(8, -1, np.float32)})
    save(tmp_path / "infinite", **{"logits/dense/bias": np.array([1, np.inf, 0], np.float32)})
    save(tmp_path / "extra", **{"logits/dense/other": np.zeros(1, np.float32)})
    save(tmp_path / "slot", **{"logits/dense/bias/Momentum": np.zeros(2, np.float32)})
    for folder, message in {
        "negative": "moving_variance has a negative variance, -1",
        "infinite": "logits/dense/bias has 1 values that are not finite",
        "extra": "1 extra: logits/dense/other",
        "slot": r"logits/dense/bias/Momentum has shape \[2\], its variable \[3\]",
    }.items():
        assert verify.main([str(tmp_path / folder)]) == 1
        assert re.search(message, capsys.readouterr().out)
        assert run_fetch(tmp_path / folder, "--to", tmp_path / "to") == 1
        assert re.search(message, capsys.readouterr().err)


def test_a_released_name_tells_depth_and_classes(source, tmp_path, capsys):
    assert run_fetch(source, "--to", tmp_path / "to", "--name", "ckpt-resnet101-mlimages") == 1
    assert (
        "depth 14 and 3 classes: the released checkpoint of this name has depth 101 and 11166"
        in capsys.readouterr().err
    )


def test_changes_after_fetching_are_found(source, tmp_path, capsys):
    assert run_fetch(source, "--to", tmp_path / "to") == 0
    prefix = tmp_path / "to" / NAME
    assert verify.main([str(prefix)]) == 0
    Path(f"{prefix}.json").write_text("{}")
    assert verify.main([str(prefix)]) == 1
    assert f"{NAME}.json: its SHA-256 differs from {NAME}.sha256" in capsys.readouterr().out
    data = Path(f"{prefix}{DATA}")
    data.write_bytes(data.read_bytes()[:-100])
    assert verify.main([str(prefix)]) == 1
    assert "BAD  " in capsys.readouterr().out


@pytest.mark.slow
def test_the_scripts_start_from_any_folder(run_script, source):
    assert run_script("checkpoints/verify.py", source).stdout.startswith("ok   ")
    done = run_script("checkpoints/verify.py")
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
