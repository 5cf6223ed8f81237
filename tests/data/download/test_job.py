"""Downloads from a local server that misbehaves: every row accounted for, kills survived."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plain_examples import read_plain
from web_server import WebServer, make_image, placeholder

from data import download_urls_multithreading
from data.download import engine as download_engine
from data.download import scheduler as download_scheduler
from data.download.engine import Engine
from data.download.fetch import FetchError
from data.download.scheduler import Scheduler, Task
from data.lists.rows import Row, read_rows
from data.tfrecords.manifest import verify

SCRIPT = Path(download_urls_multithreading.__file__)
MANIFEST = "download_manifest.tsv"


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture(autouse=True)
def hurry(monkeypatch) -> None:
    """Back-off in hundredths of seconds."""
    monkeypatch.setattr(download_scheduler, "FIRST_PAUSE_SECONDS", 0.02)


def write_list(path: Path, urls: list[str]) -> Path:
    path.write_text("".join(f"{url}\t{row % 7}:1\t7:0.5\n" for row, url in enumerate(urls)))
    return path


def run(*arguments: object) -> int:
    return download_urls_multithreading.main([str(argument) for argument in arguments])


def statuses(save_dir: Path, name: str = MANIFEST) -> dict[int, str]:
    lines = (save_dir / name).read_text().splitlines()
    return {int(f[0]): f[2] for f in (line.split("\t") for line in lines if line[0] != "#")}


def outputs(folder: Path) -> dict[str, bytes]:
    """All files but the manifests of the download, whose lines are in the order of events."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not path.name.startswith("download_manifest")
    }


ANSWERS = {  # kind of the server's answer: what becomes of the row
    "ok": "ok",
    "moved": "ok",
    "busy_once": "ok",
    "broken_once": "ok",
    "reset_once": "ok",
    "truncated_once": "ok",
    "gone": "http_404",
    "broken": "http_503",
    "html": "not_an_image",
    "empty": "empty",
    "truncated": "truncated",
    "truncated_silently": "truncated",
    "reset": "connection",
    "not_http": "connection",
    "loop": "redirects",
    "to_file": "bad_url",
    "to_photo_unavailable": "placeholder",
    "placeholder": "placeholder",
    "huge": "too_large",
    "endless": "too_large",
    "gzip_bomb": "too_large",
    "bomb": "too_large",
    "trickle": "time_out",
    "header_trickle": "time_out",
    "silent": "time_out",
    "ok/../../..": "ok",
    "ok/..%2F..%2F": "ok",
}
WHOLE_URLS = {
    "http://127.0.0.1:1/refused": "unreachable",
    "ftp://127.0.0.1/x.jpg": "bad_url",
    "file:///etc/passwd": "bad_url",
    "http://": "bad_url",
    "http://[::1/x": "bad_url",
    "../../etc/passwd": "bad_url",
    "no url at all": "bad_url",
}

HOSTILE = ANSWERS | WHOLE_URLS


@pytest.mark.slow
def test_hostile_server(web, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("data.download.job.PATIENCE_SECONDS", 0.5)
    kinds = [kind for kind in HOSTILE for _ in range(2)]
    urls = [
        kind if kind in WHOLE_URLS else web.url(f"{kind}/{row}.jpg")
        for row, kind in enumerate(kinds)
    ]
    url_list = write_list(tmp_path / "urls.txt", urls)
    hashes = tmp_path / "hashes.txt"
    digest = hashlib.sha256(placeholder()).hexdigest()
    hashes.write_text(f"sha256:{digest} a test image\n")
    inside, begun = tmp_path / "deep" / "images", time.monotonic()
    arguments = ["--url_list", url_list, "--save_dir", inside, "--num_threads", 16, "--retries", 2]
    limits = ["--read_timeout", 1, "--time_limit", 4, "--max_bytes", 2_000_000]
    status = run(*arguments, *limits, "--host_limit", 16, "--placeholders", hashes)
    assert status == 0
    assert time.monotonic() - begun < 40
    found = statuses(inside)
    assert {urls[row]: kind for row, kind in found.items()} == {
        url: HOSTILE[kind] for url, kind in zip(urls, kinds, strict=True)
    }
    printed = capsys.readouterr().out
    ok = sum(kind == "ok" for kind in found.values())
    assert f"{len(urls)} rows: {ok} ok (0 converted), {len(urls) - ok} failed, 0 pending" in printed

    # Nothing outside the folder, and nothing inside but what the lists name.
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "urls.txt", "hashes.txt"}
    images = list(read_rows(inside / "im_list.txt"))
    lists = {"im_list.txt", "invalid_url.txt"}
    assert outputs(inside).keys() == {row.image for row in images} | lists
    failed = list(read_rows(inside / "invalid_url.txt"))
    rows = list(read_rows(url_list))
    assert failed == [row for n, row in enumerate(rows) if found[n] != "ok"]
    assert [row[1:] for row in images] == [r[1:] for n, r in enumerate(rows) if found[n] == "ok"]


MIXED = ["ok"] * 6 + ["gone", "html", "broken_once", "mirrored"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "kills", "shards"), [(2000, 10, False), (240, 3, True)], ids=["files", "shards"]
)
def test_killed_at_random_moments(web, tmp_path, rows: int, kills: int, shards: bool) -> None:
    """The undisturbed run's bytes, and no row asked for again but those in flight."""
    web.delay_seconds = 0.01
    urls = [web.url(f"{MIXED[row % 10]}/{row}.jpg") for row in range(rows)]
    url_list, threads = write_list(tmp_path / "urls.txt", urls), 8
    command = [sys.executable, SCRIPT, "--url_list", url_list, "--num_threads", threads]
    if shards:
        command += ["--tfrecords", "--shard_size", 32, "--short_side", 64]

    def start(save_dir: Path) -> subprocess.Popen:
        arguments = [str(argument) for argument in [*command, "--save_dir", save_dir]]
        return subprocess.Popen(arguments, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    web.requests.clear()
    generator = random.Random(int(shards))
    for _ in range(kills):
        process = start(tmp_path / "killed")
        wanted = sum(web.requests.values()) + generator.randrange(20, rows // kills + 10)
        while sum(web.requests.values()) < wanted and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert outputs(tmp_path / "killed") == outputs(tmp_path / "whole")
    needed = rows + rows // 10  # broken_once is asked twice
    assert sum(web.requests.values()) <= needed + kills * 2 * threads


@pytest.mark.slow
def test_ctrl_c_stops_without_a_traceback(web, tmp_path) -> None:
    web.delay_seconds = 0.5  # 12 s for all of them: even a busy machine is in time to stop it
    url_list = write_list(tmp_path / "urls.txt", [web.url(f"ok/{n}.jpg") for n in range(100)])
    arguments = [str(a) for a in ["--url_list", url_list, "--save_dir", tmp_path / "images"]]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *arguments, "--num_threads", "4"],
        stderr=subprocess.PIPE,
        text=True,
    )
    while sum(web.requests.values()) < 8:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "stopped; the same command resumes\n"
    assert process.returncode == 130
    web.delay_seconds = 0
    assert run(*arguments) == 0
    assert sum(web.requests.values()) <= 100 + 2 * 4


def test_a_second_run_asks_for_nothing_and_retry_failed_for_failures_only(web, tmp_path) -> None:
    urls = [web.url(f"{kind}/{n}.jpg") for n, kind in enumerate(["ok", "broken_once", "gone"] * 3)]
    url_list = write_list(tmp_path / "urls.txt", urls)
    arguments = ["--url_list", url_list, "--save_dir", tmp_path / "images", "--retries", 0]
    assert run(*arguments) == 0
    assert Counter(statuses(tmp_path / "images").values()) == {
        "ok": 3,
        "http_500": 3,
        "http_404": 3,
    }
    before = Counter(web.requests)
    assert run(*arguments) == 0
    assert web.requests == before
    assert run(*arguments, "--retry_failed") == 0
    assert Counter(statuses(tmp_path / "images").values()) == {"ok": 6, "http_404": 3}
    assert all("/ok/" not in path for path in web.requests - before)
    assert [
        row.image.split("/")[3] for row in read_rows(tmp_path / "images" / "invalid_url.txt")
    ] == ["gone"] * 3


def test_other_lists_and_options_are_refused(web, tmp_path, capsys) -> None:
    url_list = write_list(tmp_path / "urls.txt", [web.url("ok/1.jpg")])
    save_dir = tmp_path / "images"
    assert run("--url_list", url_list, "--save_dir", save_dir) == 0
    assert run("--url_list", url_list, "--save_dir", save_dir, "--short_side", 50) == 1
    assert "other settings (naming, short_side, quality)" in capsys.readouterr().err
    assert run("--url_list", url_list, "--save_dir", save_dir, "--part", "0/2") == 1
    assert "in 1 parts, not 2" in capsys.readouterr().err
    write_list(url_list, [web.url("ok/2.jpg")])
    assert run("--url_list", url_list, "--save_dir", save_dir) == 1
    assert "other settings (list_sha256)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("http://x/1.jpg\t3:7\n", "urls.txt:1: confidence"),
        ("http://x/1.jpg\t9:1", "class 9 is not"),
    ],
)
def test_a_broken_list_stops_before_anything_is_asked(tmp_path, capsys, line, error) -> None:
    url_list = tmp_path / "urls.txt"
    url_list.write_text(line)
    arguments = ["--url_list", url_list, "--save_dir", tmp_path / "images", "--num_class", 9]
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and error in captured.err
    assert captured.err.count("\n") == 1


def test_a_full_disk_ends_the_run_and_is_no_failed_row(web, tmp_path, capsys, monkeypatch) -> None:
    url_list = write_list(tmp_path / "urls.txt", [web.url(f"ok/{n}.jpg") for n in range(5)])

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("data.download.store.os.replace", no_space)
        assert run("--url_list", url_list, "--save_dir", tmp_path / "images") == 1
    assert "No space left" in capsys.readouterr().err
    assert statuses(tmp_path / "images") == {}
    assert run("--url_list", url_list, "--save_dir", tmp_path / "images") == 0


@pytest.mark.slow
def test_requests_to_one_host_at_a_time(web, tmp_path) -> None:
    web.delay_seconds = 0.05
    hosts = ["127.0.0.1", "localhost"]
    urls = [web.url(f"ok/{n}.jpg", hosts[n % 2]) for n in range(60)]
    url_list = write_list(tmp_path / "urls.txt", urls)
    arguments = ["--url_list", url_list, "--save_dir", tmp_path / "images", "--host_limit", 3]
    assert run(*arguments, "--num_threads", 20) == 0
    assert web.most_at_once == dict.fromkeys(hosts, 3)


def test_short_side_makes_jpegs(web, tmp_path) -> None:
    url_list = write_list(tmp_path / "urls.txt", [web.url("ok/1.png"), web.url("ok/2.jpg")])
    save_dir = tmp_path / "images"
    assert run("--url_list", url_list, "--save_dir", save_dir, "--short_side", 45) == 0
    for row in read_rows(save_dir / "im_list.txt"):
        with Image.open(save_dir / row.image) as image:
            assert (image.format, image.size) == ("JPEG", (60, 45))
    assert set(statuses(save_dir).values()) == {"converted"}


def test_shards(web, tmp_path, capsys) -> None:
    """Records in the order of the list, with its labels; a retry adds what it gets to its shard."""
    kinds = ["ok", "broken_once", "gone", "ok", "ok", "broken_once", "ok"]
    urls = [web.url(f"{kind}/{n}.jpg") for n, kind in enumerate(kinds)]
    url_list = write_list(tmp_path / "urls.txt", urls)
    arguments = ["--url_list", url_list, "--save_dir", tmp_path / "records", "--retries", 0]
    arguments += ["--tfrecords", "--shard_size", 3]

    def names() -> list[list[str]]:
        shards = sorted((tmp_path / "records").glob("*.tfrecords"))
        examples = [read_plain(path) for path in shards]
        for example in (example for shard in examples for example in shard):
            number = int(example["name"][0].split(b"-")[0])
            assert example["image"] == [make_image(number)]
            assert (example["width"], example["height"]) == ([120], [90])
            assert example["label_index"] == [number % 7, 7]
        return [[e["name"][0].split(b"-")[0].decode() for e in shard] for shard in examples]

    assert run(*arguments) == 0
    assert names() == [["0"], ["3", "4"], ["6"]]
    assert run(*arguments, "--retry_failed") == 0
    assert names() == [["0", "1"], ["3", "4", "5"], ["6"]]
    reports, problems = verify(tmp_path / "records", 1)
    assert (problems, [report.rows for report in reports]) == ([], [2, 3, 1])
    assert not (tmp_path / "records" / ".spool").exists()
    before = outputs(tmp_path / "records")
    capsys.readouterr()
    (tmp_path / "records" / "00000.tfrecords").unlink()
    shard = tmp_path / "records" / "00001.tfrecords"
    shard.write_bytes(shard.read_bytes()[:-9] + b"?" + shard.read_bytes()[-8:])
    assert run(*arguments, "--verify") == 0
    assert "3 images were deleted or altered since" in capsys.readouterr().err
    assert outputs(tmp_path / "records") == before


@pytest.mark.slow
@pytest.mark.parametrize("shards", [False, True])
def test_parts_are_joined_to_what_one_run_gives(web, tmp_path, capsys, shards) -> None:
    urls = [web.url(f"{MIXED[row % 10]}/{row}.jpg") for row in range(120)]
    arguments = ["--url_list", write_list(tmp_path / "urls.txt", urls), "--num_threads", 8]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    if shards:
        arguments += ["--tfrecords", "--shard_size", 16]
    assert run(*arguments, "--save_dir", whole) == 0
    web.requests.clear()
    assert run(*arguments, "--save_dir", parts, "--part", "0/3") == 0
    assert "part 0/3: 41 rows" in capsys.readouterr().out
    assert run(*arguments, "--save_dir", parts) == 1
    assert "are pending" in capsys.readouterr().err
    for part in (1, 2):
        assert run(*arguments, "--save_dir", parts, "--part", f"{part}/3") == 0
    before = sum(web.requests.values())
    assert run(*arguments, "--save_dir", parts) == 0
    assert sum(web.requests.values()) == before
    joined, one = outputs(parts), outputs(whole)
    for name in ("im_list.txt", "invalid_url.txt"):
        assert joined[name] == one[name]
    if shards:
        assert verify(parts, 1)[1] == []
    else:
        assert joined == one


@pytest.mark.slow
def test_mpi_ranks_give_what_one_process_gives(web, tmp_path) -> None:
    urls = [web.url(f"{MIXED[row % 10]}/{row}.jpg") for row in range(60)]
    url_list = write_list(tmp_path / "urls.txt", urls)
    assert run("--url_list", url_list, "--save_dir", tmp_path / "one") == 0
    mpirun = [Path(sys.executable).with_name("mpirun"), "--allow-run-as-root", "--oversubscribe"]
    script = [sys.executable, SCRIPT, "--url_list", url_list, "--save_dir", tmp_path / "two"]
    subprocess.run([str(a) for a in [*mpirun, "-np", 2, *script]], check=True, timeout=60)
    assert outputs(tmp_path / "one") == outputs(tmp_path / "two")


def test_by_id(web, tmp_path) -> None:
    ids, labels = tmp_path / "ids.csv", tmp_path / "labels.txt"
    ids.write_text(
        "ImageID,Subset,OriginalURL\n00000000000000a1,train,http://gone.example/1.jpg\n"
        "00000000000000b2,train,http://gone.example/2.jpg\n"
    )
    labels.write_text("https://gone.example/2.jpg\t3:1\t5:0.9\n")
    save_dir = tmp_path / "images"
    template = web.url("ok/{subset}/{id}.jpg")
    arguments = ["--image_ids", ids, "--annotations", labels, "--save_dir", save_dir]
    assert run(*arguments, "--url_template", template) == 0
    assert list(read_rows(save_dir / "im_list.txt")) == [
        Row("00000000000000b2.jpg", (3, 5), (1.0, 0.9))
    ]
    assert list(web.requests) == ["/ok/train/00000000000000b2.jpg"]


def test_a_url_template_without_a_place_for_the_id_is_refused(tmp_path, capsys) -> None:
    ids = tmp_path / "ids.csv"
    ids.write_text("ImageID,Subset\n0000000000000001,train\n")
    arguments = ["--image_ids", ids, "--save_dir", tmp_path / "images"]
    assert run(*arguments, "--url_template", "http://host/") == 1
    error = "error: --url_template 'http://host/' has no {id} in it\n"
    assert capsys.readouterr().err.endswith(error)


def test_images_are_turned_as_open_images_says(web, tmp_path, capsys) -> None:
    ids, save_dir = tmp_path / "ids.csv", tmp_path / "images"
    degrees = ["90.0", "180.0", "270", "0.0", "nan", ""]
    rows = [f"{n:016x},train,{value}" for n, value in enumerate(degrees)]
    ids.write_text("\n".join(["ImageID,Subset,Rotation", *rows]) + "\n")
    arguments = ["--image_ids", ids, "--save_dir", save_dir]
    template = ["--url_template", web.url("ok/{id}.jpg")]
    assert run(*arguments, *template) == 0
    assert "3 images are rotated by the column Rotation" in capsys.readouterr().out
    with Image.open(io.BytesIO(make_image(0))) as image:
        served = np.asarray(image, np.int16)
    for number, value in enumerate(degrees):
        with Image.open(save_dir / f"{number:016x}.jpg") as image:
            turned = np.rot90(served, int(float(value.replace("nan", "") or 0)) // 90)
            assert image.size == turned.shape[1::-1]
            assert np.abs(np.asarray(image, np.int16) - turned).mean() < 3
    assert Counter(statuses(save_dir).values()) == {"converted": 3, "ok": 3}
    ids.write_text(ids.read_text().replace("180.0", "45"))
    assert run(*arguments, *template) == 1
    assert "ids.csv:3: Rotation is '45'" in capsys.readouterr().err


@pytest.mark.slow
def test_dry_run_leaves_nothing(web, tmp_path, capsys) -> None:
    url_list = write_list(tmp_path / "urls.txt", [web.url(f"ok/{n}.jpg") for n in range(500)])
    assert run("--url_list", url_list, "--save_dir", tmp_path / "images", "--dry_run") == 0
    printed = capsys.readouterr().out
    assert "sample of 200 of 500 rows" in printed
    assert "about 500 images" in printed
    assert list((tmp_path / "images").iterdir()) == []
    assert sum(web.requests.values()) == 200


def results(
    fetch: Callable[[Task], object],
    store: Callable[[Task, object], object] = lambda task, body: body,
    **options: float,
) -> dict[int, object]:
    """What the engine makes of 100 tasks of one host; failures by their kind."""
    engine = Engine(fetch, store, Scheduler(8, 6, has_answered=True), 8, 2, **options)
    tasks = (Task(row, "", "", "host") for row in range(100))
    found = [(task.row, getattr(result, "kind", result)) for task, result in engine.run(tasks)]
    assert len(found) == 100
    return dict(found)


@pytest.mark.slow
@pytest.mark.parametrize("while_storing", [False, True])
def test_a_worker_that_dies_is_replaced(while_storing: bool) -> None:
    def die_at_row_7(task: Task, *_: object) -> int:
        if task.row == 7:
            os._exit(1)  # as after a crash of a decoder
        return task.row

    functions = [lambda task: b"body", die_at_row_7] if while_storing else [die_at_row_7]
    assert results(*functions) == {row: "crashed" if row == 7 else row for row in range(100)}


def test_an_attempt_without_end_is_given_up() -> None:
    def fetch(task: Task) -> int:
        if task.row in (3, 50):
            time.sleep(1000)
        return task.row

    begun = time.monotonic()
    found = results(fetch, patience_seconds=0.5)
    assert found == {row: "time_out" if row in (3, 50) else row for row in range(100)}
    assert time.monotonic() - begun < 30


@pytest.mark.slow
def test_rows_of_one_host_wait_for_our_network(monkeypatch) -> None:
    monkeypatch.setattr(download_scheduler, "OFFLINE_PAUSE_SECONDS", 0.05)
    end = time.monotonic() + 1.0

    def fetch(task: Task) -> int:
        if time.monotonic() < end:
            raise FetchError("offline", "no resolver", is_transient=True)
        return task.row

    assert results(fetch) == {row: row for row in range(100)}


def test_a_host_that_is_gone_ends() -> None:
    def fetch(task: Task) -> int:
        raise FetchError("unreachable", "refused", is_transient=True)

    assert set(results(fetch).values()) == {"unreachable"}


def test_a_mistake_of_ours_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        results(lambda task: 1 // task.row)


def test_tasks_are_read_no_further_than_the_window(monkeypatch) -> None:
    """Constant memory: of a list without end only the window is read ahead."""
    monkeypatch.setattr(download_engine, "WINDOW", 1000)
    read = 0

    def endless() -> Iterator[Task]:
        nonlocal read
        while True:
            read += 1
            yield Task(read, "", "", "host")

    engine = Engine(lambda task: b"", lambda task, body: task.row, Scheduler(4, 0), 4, 2)
    for done, _ in enumerate(engine.run(endless())):
        assert read <= done + 1000 + 2 * 4
        if done == 5000:
            break


def test_script_runs_from_any_folder(run_script, tmp_path) -> None:
    finished = run_script("data/download_urls_multithreading.py", "--url_list", "none.txt")
    assert finished.returncode == 1
    assert finished.stderr.splitlines() == ["error: none.txt: No such file or directory"]
