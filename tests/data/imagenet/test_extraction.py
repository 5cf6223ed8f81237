"""Images taken out of ImageNet's archives: in every form, resumable, and never elsewhere."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from data import extract_imagenet
from data.imagenet import archives, extraction

ROOT = Path(__file__).resolve().parents[3]
SYNSETS = {1: [1, 2, 30], 2: [5, 7], 3: [1]}


def name(synset, number):
    return f"n{synset:08d}_{number}.JPEG"


def data(synset, number):
    return f"image {synset} {number} ".encode() * 50


def tar_of(members, mode="w"):
    """The bytes of a tar of {name: bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def synset_tar(synset, mode="w"):
    return tar_of({name(synset, n): data(synset, n) for n in SYNSETS[synset]}, mode)


def whole_tar(path):
    path.write_bytes(tar_of({f"n{synset:08d}.tar": synset_tar(synset) for synset in SYNSETS}))
    return [path]


def nested_tar_with_folders(path):
    members = {f"./fall11/n{synset:08d}.tar": synset_tar(synset) for synset in SYNSETS}
    path.write_bytes(tar_of({"./README": b"hello", **members}))
    return [path]


def synset_tars(path):
    paths = []
    for synset in SYNSETS:
        paths.append(path.with_name(f"n{synset:08d}.tar"))
        paths[-1].write_bytes(synset_tar(synset))
    return paths


def compressed_synset_tars(path):
    paths = []
    for synset in SYNSETS:
        paths.append(path.with_name(f"n{synset:08d}.tar.gz"))
        paths[-1].write_bytes(synset_tar(synset, "w:gz"))
    return paths


def folder_of_tars(path):
    path.mkdir()
    synset_tars(path / "x")
    (path / "notes.txt").write_text("hello")
    return [path]


def folder_of_a_whole_tar(path):
    path.mkdir()
    (path / "._fall11_whole.tar").write_text("what macOS leaves behind")
    whole_tar(path / "fall11_whole.tar")
    return [path]


def folder_of_a_tar_and_images(path):
    """Two synsets unpacked, a tar of the third one's images and one of synsets' tars."""
    tree(path)
    for image in (path / "n00000002").iterdir():
        image.unlink()
    (path / "n00000001" / name(1, 1)).unlink()
    (path / "some.tar").write_bytes(tar_of({name(2, 7): data(2, 7)}))
    (path / "others.tar").write_bytes(
        tar_of({"n00000001.tar": tar_of({name(1, 1): data(1, 1)}), "README": b"hello"})
    )
    (path / "n00000003.tgz").write_bytes(synset_tar(3, "w:gz"))
    return [path]


def tree(path):
    for synset, numbers in SYNSETS.items():
        for number in numbers:
            file = path / f"n{synset:08d}" / name(synset, number)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data(synset, number))
    return [path]


def folders_of_the_tree(path):
    (root,) = tree(path)
    return sorted(root.iterdir())


def tar_of_the_tree(path):
    path.write_bytes(
        tar_of(
            {
                f"images/n{synset:08d}/{name(synset, number)}": data(synset, number)
                for synset, numbers in SYNSETS.items()
                for number in numbers
            }
        )
    )
    return [path]


FORMS = [
    whole_tar,
    nested_tar_with_folders,
    synset_tars,
    compressed_synset_tars,
    folder_of_tars,
    folder_of_a_whole_tar,
    folder_of_a_tar_and_images,
    tree,
    folders_of_the_tree,
    tar_of_the_tree,
]

LIST = (
    "n00000001/n00000001_30.JPEG\t1:1\n"
    "n00000002/n00000002_7.JPEG\t2:1\t0:1\n"
    "\n"
    "n00000001/n00000001_1.JPEG  3:1\n"
    "n00000001/n00000001_4.JPEG\t3:1\n"
    "https://c4.staticflickr.com/8/7239/1.jpg\t3:1\n"
    "n00000001/n00000001_30.JPEG\t1:1\n"
    "n00000009/n00000009_1.JPEG\t1:1\n"
    "../n00000003/n00000003_1.JPEG\t1:1\n"
    "n00000003/n00000001_1.JPEG\t1:1\n"
)
TAKEN = {(1, 30), (2, 7), (1, 1)}


def run(tmp_path, paths, *options, text=LIST):
    (tmp_path / "list.txt").write_text(text)
    return extract_imagenet.main(
        [
            *("--list", str(tmp_path / "list.txt"), "--output", str(tmp_path / "images")),
            *("--processes", "1", *map(str, options)),
            *("--archives", *map(str, paths)),
        ]
    )


def images(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and extraction.REPORTS not in path.parts
    }


def expected(taken):
    return {f"n{synset:08d}/{name(synset, n)}": data(synset, n) for synset, n in taken}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_database(tmp_path, capsys, form):
    (tmp_path / "source").mkdir()
    paths = form(tmp_path / "source/fall11_whole.tar")
    assert run(tmp_path, paths, "--im_list", tmp_path / "found.txt") == 0
    found = images(tmp_path / "images")
    assert found.pop("missing.txt") == (b"n00000001/n00000001_4.JPEG\nn00000009/n00000009_1.JPEG\n")
    assert found.pop("duplicates.txt") == b""
    assert found == expected(TAKEN)
    assert (tmp_path / "found.txt").read_text() == (
        "n00000001/n00000001_30.JPEG\t1:1\n"
        "n00000002/n00000002_7.JPEG\t2:1\t0:1\n"
        "n00000001/n00000001_1.JPEG\t3:1\n"
        "n00000001/n00000001_30.JPEG\t1:1\n"
    )
    report = capsys.readouterr().out
    assert (
        "9 rows: 5 images of 3 synsets,\n  1 rows name one again, 3 are not of ImageNet (" in report
    )
    assert "3 images found, 2 missing" in report


def test_the_first_place_wins_and_the_others_fill_in(tmp_path):
    first = tmp_path / "n00000001.tar"
    first.write_bytes(tar_of({name(1, 1): b"first"}))
    (tmp_path / "second").mkdir()
    second = tmp_path / "second/n00000001.tar"
    second.write_bytes(tar_of({name(1, 1): b"second", name(1, 30): b"thirty"}))
    assert run(tmp_path, [first, second]) == 0
    found = images(tmp_path / "images")
    assert found["n00000001/n00000001_1.JPEG"] == b"first"
    assert found["n00000001/n00000001_30.JPEG"] == b"thirty"


def test_nothing_is_written_outside_the_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    members = {
        "../../n00000001_1.JPEG": b"a",
        f"{outside}/n00000001_30.JPEG": b"b",
        "../outside/evil.sh": b"c",
        "n00000002_7.JPEG": b"another synset's",
        "n00000001_4.JPEG/../../../x": b"d",
    }
    path = tmp_path / "n00000001.tar"
    path.write_bytes(tar_of(members))
    with tarfile.open(path, "a") as tar:
        for kind, number in [(tarfile.SYMTYPE, 4), (tarfile.LNKTYPE, 4), (tarfile.DIRTYPE, 4)]:
            link = tarfile.TarInfo(name(1, number))
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    before = sorted(tmp_path.iterdir())
    text = LIST + "../../n00000001/n00000001_1.JPEG\t1:1\n"
    assert run(tmp_path, [path], text=text) == 0
    found = images(tmp_path / "images")
    assert {n: b for n, b in found.items() if n.endswith("JPEG")} == {
        "n00000001/n00000001_1.JPEG": b"a",
        "n00000001/n00000001_30.JPEG": b"b",
    }
    assert sorted(tmp_path.iterdir()) == sorted(
        [*before, tmp_path / "images", tmp_path / "list.txt"]
    )
    assert list(outside.iterdir()) == []


def test_same_images_are_reported(tmp_path, capsys):
    path = tmp_path / "all.tar"
    members = {name(1, 1): b"same", name(1, 2): b"other", name(1, 30): b"same"}
    second = {name(2, 5): b"same", name(2, 7): b"lone"}
    path.write_bytes(tar_of({"n00000001.tar": tar_of(members), "n00000002.tar": tar_of(second)}))
    lines = [(1, 1), (1, 2), (1, 30), (2, 5), (2, 7)]
    text = "".join(f"n{synset:08d}/{name(synset, n)}\t1:1\n" for synset, n in lines)
    assert run(tmp_path, [path], text=text) == 0
    assert (tmp_path / "images/duplicates.txt").read_text() == (
        "n00000001/n00000001_1.JPEG\tn00000001/n00000001_30.JPEG\tn00000002/n00000002_5.JPEG\n"
    )
    assert "1 groups of images are the same" in capsys.readouterr().out


def test_a_finished_synset_is_not_read_again(tmp_path, monkeypatch):
    paths = synset_tars(tmp_path / "x")
    run(tmp_path, paths)
    before = images(tmp_path / "images")
    monkeypatch.setattr(extraction, "read_images", lambda *_: pytest.fail("read again"))
    assert run(tmp_path, paths) == 0
    assert images(tmp_path / "images") == before


def test_more_wanted_images_or_more_places_are_looked_for(tmp_path):
    paths = synset_tars(tmp_path / "x")
    run(tmp_path, paths)
    run(tmp_path, paths, text=LIST + "n00000001/n00000001_2.JPEG\t1:1\n")
    assert "n00000001/n00000001_2.JPEG" in images(tmp_path / "images")
    (tmp_path / "more").mkdir()
    more = tmp_path / "more/n00000001.tar"
    more.write_bytes(tar_of({name(1, 4): b"four"}))
    run(tmp_path, [*paths, more])
    assert images(tmp_path / "images")["n00000001/n00000001_4.JPEG"] == b"four"


def test_a_damaged_archive_is_an_error_and_what_comes_before_is_kept(tmp_path, capsys):
    (path,) = whole_tar(tmp_path / "whole.tar")
    content = bytearray(path.read_bytes())
    at = content.index(b"n00000001_30.JPEG")
    content[at : at + 100] = b"\xff" * 100  # a header inside the first nested tar
    path.write_bytes(content)
    assert run(tmp_path, [path]) == 1
    output = capsys.readouterr()
    assert "synset n00000001" in output.err
    assert "2 images found, 3 missing" in output.out
    found = images(tmp_path / "images")
    assert "n00000001/n00000001_1.JPEG" in found
    assert "n00000002/n00000002_7.JPEG" in found
    whole_tar(path)
    assert run(tmp_path, [path]) == 0
    assert "n00000001/n00000001_30.JPEG" in images(tmp_path / "images")


def test_archives_cut_short(tmp_path, capsys):
    (path,) = whole_tar(tmp_path / "whole.tar")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"n00000001_30.JPEG") + 700])
    assert run(tmp_path, [path]) == 1
    errors = capsys.readouterr().err
    assert "whole.tar: what follows n00000001 is lost" in errors
    assert "whole.tar: synset n00000001: " in errors
    assert "n00000001/n00000001_1.JPEG" in images(tmp_path / "images")
    (flat,) = tar_of_the_tree(tmp_path / "flat.tar")
    content = flat.read_bytes()
    flat.write_bytes(content[: content.index(b"n00000001_30.JPEG") + 700])
    assert run(tmp_path, [flat]) == 1
    assert "flat.tar: what follows n00000001 is lost" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not a tar" * 100, tar_of({"a.txt": b"a"})])
def test_what_is_no_archive_of_imagenet(tmp_path, capsys, content):
    (tmp_path / "x.tar").write_bytes(content)
    assert run(tmp_path, [tmp_path / "x.tar"]) == 1
    assert "x.tar: not" in (error := capsys.readouterr().err) or "x.tar: no images" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("tar", ["devkit.tar", "devkit.tar.gz", "devkit.tgz"])
def test_a_tar_in_a_folder_is_not_passed_over(tmp_path, capsys, tar):
    (folder,) = folder_of_tars(tmp_path / "folder")
    (folder / tar).write_bytes(tar_of({"a.txt": b"a"}, "w" if tar.endswith("tar") else "w:gz"))
    assert run(tmp_path, [folder]) == 1
    error = capsys.readouterr().err
    assert f"folder/{tar}: no" in error and error.count("\n") == 1


def test_compressed_synset_tars_by_either_name(tmp_path):
    (tmp_path / "n00000002.tgz").write_bytes(synset_tar(2, "w:gz"))
    assert run(tmp_path, [tmp_path / "n00000002.tgz"]) == 0
    assert "n00000002/n00000002_7.JPEG" in images(tmp_path / "images")


def test_a_folder_of_nothing(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("hello")
    assert run(tmp_path, [tmp_path / "folder"]) == 1
    assert "folder: no images of ImageNet" in capsys.readouterr().err


@pytest.mark.slow
def test_more_processes_and_a_kill_change_nothing(tmp_path):
    count = 60
    numbers = range(40)
    text = "".join(f"n{s:08d}/{name(s, n)}\t1:1\n" for s in range(count) for n in numbers)
    nested = {
        f"n{s:08d}.tar": tar_of({name(s, n): data(s, n) * 20 for n in numbers})
        for s in range(count)
    }
    (tmp_path / "whole.tar").write_bytes(tar_of(nested))
    run(tmp_path, [tmp_path / "whole.tar"], text=text)
    before = all_files(tmp_path / "images")
    command = [sys.executable, ROOT / "data/extract_imagenet.py", "--list", tmp_path / "list.txt"]
    command += ["--archives", tmp_path / "whole.tar", "--output", tmp_path / "again"]
    process = subprocess.Popen([*command, "--processes", "2"], start_new_session=True)
    while len(list((tmp_path / "again").glob(".extracted/*.json"))) < 5:
        assert process.poll() is None
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (tmp_path / "again/.extracted/.n00000059.json.99.tmp").write_text("as a kill may leave it")
    assert not (tmp_path / "again/missing.txt").exists()
    assert subprocess.run([*command, "--processes", "2"], capture_output=True).returncode == 0
    assert all_files(tmp_path / "again") == before


def all_files(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_numbers_are_read_as_written(tmp_path):
    assert archives.image_id("a/n04310904_8388.JPEG") == (4310904, 8388)
    for odd in ("n04310904_08.JPEG", "n0431090_8.JPEG", "n04310904_8.jpg", "n04310904_8.JPEG/x"):
        assert archives.image_id(odd) is None
