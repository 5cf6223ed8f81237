"""The manifest of a download survives kills; repeated bodies are found; ids are joined."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.common.errors import UserError
from data.common.sharding import Shard
from data.download.job import Options, Plan, write_lists
from data.download.manifest import Entry, Manifest, mark_repeated
from data.download.names import Naming
from data.download.open_images import join_ids
from data.download.store import partial_name
from data.lists.rows import ListError

SETTINGS = {"list": "abc", "rows": 5}


def opened(path: Path, settings: dict = SETTINGS, rows: int = 5) -> Manifest:
    return Manifest(path, settings, rows)


def ok(row: int, url: str = "http://x/1.jpg", sha256: str = "ab" * 32) -> Entry:
    return Entry(row, url, "ok", "1.jpg", 10, sha256, 4, 3)


def test_what_is_written_is_read_again(tmp_path) -> None:
    path = tmp_path / "manifest.tsv"
    with opened(path) as manifest:
        manifest.append(ok(3))
        manifest.append(Entry(0, "http://x/ü", "http_404", error="Not\tFound\nat all"))
        manifest.append(ok(4)._replace(status="converted"))
    with opened(path) as manifest:
        kinds = [manifest.kind(row) for row in range(5)]
        assert kinds == ["http_404", "pending", "pending", "ok", "converted"]
        assert manifest.counts() == {"pending": 2, "ok": 1, "converted": 1, "http_404": 1}
        assert manifest.stored_bytes == 20
        entries = list(manifest.entries())
        assert entries[0] == ok(3)
        assert entries[1].error == "Not Found at all"
        manifest.forget_failures()
        assert manifest.counts() == {"pending": 3, "ok": 1, "converted": 1}
        manifest.append(ok(0))
    assert opened(path).counts() == {"pending": 2, "ok": 2, "converted": 1}


@pytest.mark.parametrize("kept", range(12))
def test_a_line_cut_short_is_dropped_wherever_it_is_cut(tmp_path, kept: int) -> None:
    path = tmp_path / "manifest.tsv"
    with opened(path) as manifest:
        manifest.append(ok(1))
        whole = path.read_bytes()
        manifest.append(ok(2))
    path.write_bytes(whole + path.read_bytes()[len(whole) :][: 6 * kept])
    with opened(path) as manifest:
        assert [manifest.kind(row) for row in (1, 2)] == ["ok", "pending"]
        manifest.append(ok(3))
    assert opened(path).counts() == {"pending": 3, "ok": 2}


@pytest.mark.parametrize("header_bytes", [0, 5, 40])
def test_a_header_cut_short_begins_again(tmp_path, header_bytes: int) -> None:
    path = tmp_path / "manifest.tsv"
    opened(path)
    path.write_bytes(path.read_bytes()[:header_bytes])
    assert opened(path).counts() == {"pending": 5}


def test_refused_manifests(tmp_path) -> None:
    path = tmp_path / "manifest.tsv"
    with opened(path) as manifest:
        with pytest.raises(UserError, match="another download is writing"):
            opened(path)
        manifest.append(ok(1))
    with pytest.raises(UserError, match=r"other settings \(list\);"):
        opened(path, {"list": "other", "rows": 5})
    with path.open("a") as file:
        file.write("nonsense\n")
    with pytest.raises(UserError, match=r"manifest\.tsv:4: not a line"):
        opened(path)
    path.write_text("something else\n")
    with pytest.raises(UserError, match=r"manifest\.tsv:1: not a manifest"):
        opened(path)


def test_many_kinds_of_failure(tmp_path) -> None:
    with opened(tmp_path / "manifest.tsv", rows=1000) as manifest:
        for row in range(1000):
            manifest.append(Entry(row, "", f"http_{row}"))
        assert sum(manifest.counts().values()) == 1000
        assert "pending" not in manifest.counts()


def test_repeated_bodies_over_parts(tmp_path) -> None:
    """Ten rows of one body in two parts: five URLs, then the same URL five times."""
    with opened(tmp_path / "a", rows=8) as a, opened(tmp_path / "b", rows=8) as b:
        for row in range(5):
            (a if row < 3 else b).append(ok(row, f"http://x/{row}", "ab" * 32))
        for row in (5, 6, 7):
            a.append(ok(row, f"http://x/{row}", f"{row}" * 64))
        for row in (0, 1, 2, 5, 6):
            b.append(ok(row, "http://y/same", "cd" * 32))
        assert mark_repeated([a, b], urls=6) == []
        (body,) = mark_repeated([a, b], urls=5)
        assert (body.sha256, body.rows) == ("ab" * 32, 5)
        assert a.counts() == {"ok": 3, "repeated": 3, "pending": 2}
        assert b.counts() == {"ok": 5, "repeated": 2, "pending": 1}
        assert a.stored_bytes == 30
        assert mark_repeated([a, b], urls=5) == []
        for manifest in (a, b):
            manifest.forget_failures()
        for row in range(5):  # --retry_failed, and now they are images
            (a if row < 3 else b).append(ok(row, f"http://x/{row}", f"a{row}" * 32))
        assert mark_repeated([a, b], urls=5) == []
        assert a.counts() == {"ok": 6, "pending": 2} and b.counts() == {"ok": 7, "pending": 1}


def test_lists_are_in_order_and_files_of_repeated_bodies_are_removed(tmp_path) -> None:
    url_list = tmp_path / "urls.txt"
    url_list.write_text("".join(f"http://x/{row}.jpg\t{row}:0.5 7:1\r\n" for row in range(4)))
    names = [Naming().file(f"http://x/{row}.jpg") for row in range(4)]
    (tmp_path / names[1]).write_bytes(b"placeholder")
    (tmp_path / partial_name(3, Shard(0, 1))).write_bytes(b"of an attempt that was killed")
    with opened(tmp_path / "manifest.tsv", rows=4) as manifest:
        for row, status in [(2, "ok"), (3, "http_404"), (1, "repeated"), (0, "converted")]:
            manifest.append(Entry(row, "", status))
        lists = tmp_path / "im_list.txt", tmp_path / "invalid_url.txt"
        write_lists(Plan(Options(url_list, tmp_path, *lists)), [manifest])
    assert lists[0].read_text() == f"{names[0]}\t0:0.5\t7:1\n{names[2]}\t2:0.5\t7:1\n"
    assert lists[1].read_text() == "http://x/1.jpg\t1:0.5\t7:1\nhttp://x/3.jpg\t3:0.5\t7:1\n"
    left = {"manifest.tsv", "urls.txt", "im_list.txt", "invalid_url.txt"}
    assert {path.name for path in tmp_path.iterdir()} == left


CSV = """ImageID,Subset,OriginalURL,Title
00000000000000aa,train,https://farm8.staticflickr.com/7239/6997334729_e5fb3938b1_o.jpg,"a, b"
00000000000000bb,validation,http://x.org/b.jpg,
00000000000000cc,train,http://x.org/c.jpg,
"""


def test_ids_are_joined_by_original_url_and_by_id(tmp_path) -> None:
    ids, labels, joined = tmp_path / "ids.csv", tmp_path / "labels.txt", tmp_path / "joined.txt"
    ids.write_text(CSV)
    labels.write_text(
        "https://c4.staticflickr.com/8/7239/6997334729_e5fb3938b1_o.jpg\t3:1\t5:0.9\n"
        "https://x.org/b.jpg\t4:1\nhttps://x.org/unused.jpg\t6:1\n"
    )
    assert join_ids(ids, labels, True, joined) == (2, 1, 3, 0)
    lines = ["train/00000000000000aa\t3:1\t5:0.9", "validation/00000000000000bb\t4:1"]
    assert joined.read_text().splitlines() == lines
    labels.write_text("00000000000000cc 8:1\ntrain/00000000000000aa 9:-1\n")
    assert join_ids(ids, labels, False, joined) == (2, 1, 2, 0)
    assert joined.read_text().splitlines() == ["00000000000000aa\t9:-1", "00000000000000cc\t8:1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ids.csv",
        "joined.rotations.txt",
        "joined.txt",
        "labels.txt",
    ]


def test_a_list_of_ids_with_its_own_labels(tmp_path) -> None:
    ids, joined = tmp_path / "ids.txt", tmp_path / "joined.txt"
    ids.write_text("train/00000000000000aa\t3:1\n00000000000000bb\n")
    assert join_ids(ids, None, False, joined) == (2, 0, 0, 0)
    assert joined.read_text() == "00000000000000aa\t3:1\n00000000000000bb\n"
    with pytest.raises(ListError, match=r"image 2, 00000000000000bb, has no subset"):
        join_ids(ids, None, True, joined)
