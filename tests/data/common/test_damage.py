"""Damage to every file that a later run believes: an error that names it, or the right result.

`PYTHONPATH=.:tests python -c "import test_damage as t; t.campaign(200, seed=1)"` flips more bits.
"""

import hashlib
import json
import math
import random
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from checkpoints.verify import wrong_sums
from data.common.errors import UserError
from data.common.state import write_document
from data.download.manifest import Entry, Manifest
from data.imagenet.extraction import Extractor
from data.outputs.result_files import ResultShards, ShardWriter
from data.tfrecords import conversion, records
from data.tfrecords.conversion import ListRows
from data.tfrecords.manifest import ShardFolder, verify
from models.checkpoints import checkpoint
from models.checkpoints.folder import CheckpointFolder

FLIPS = 40
SHARD = f"00001{conversion.SUFFIX}"
SETTINGS = {"list": "abc", "rows": 9}


class Kind(NamedTuple):
    """A kind of file: how it comes to be, and what a later run makes of it.

    `build` makes it in a folder and returns its path; `use` is what is believed of it, with more
    than one right answer where its end may be missing: `rights` of the answer without damage.
    """

    build: Callable[[Path], Path]
    use: Callable[[Path], Any]
    rights: Callable[[Any], list] = lambda answer: [answer]


def build_checkpoint(folder: Path) -> str:
    runs = CheckpointFolder(folder)
    for step in (1, 20, 3):
        meta = {"flags": {"lr": 0.1, "image_size": 64, "name": "ß"}, "progress": {"position": step}}
        runs.save(step, {"a": np.arange(50.0), "b/c": np.ones((2, 3), np.float32)}, meta)
    return runs.latest()


def use_checkpoint(folder: Path) -> Any:
    opened = checkpoint.read(CheckpointFolder(folder).latest())
    return opened.prefix, opened.meta(), {n: opened.tensor(n).tolist() for n in opened.shapes}


def latest_file(suffix: str) -> Kind:
    return Kind(lambda folder: Path(build_checkpoint(folder) + suffix), use_checkpoint)


def build_sums(folder: Path) -> Path:
    prefix = Path(build_checkpoint(folder))
    names = [prefix.name + suffix for suffix in (".index", ".json")]
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]
    path = Path(f"{prefix}.sha256")
    path.write_text("".join(f"{d}  {n}\n" for d, n in zip(digests, names, strict=True)))
    return path


def use_sums(folder: Path) -> Any:
    if wrong := list(wrong_sums(folder / "model.ckpt-3")):
        raise checkpoint.CheckpointError(f"{folder}: {wrong[0]}")


def build_records(folder: Path) -> Path:
    for number in range(5):
        Image.new("RGB", (20, 20), (number * 40, 0, 0)).save(folder / f"{number}.jpg")
    rows = [f"{number}.jpg\t{number}:1\t7:0.5\n" for number in range(6)]  # the last one is missing
    (folder / "list.txt").write_text("".join(rows))
    convert(folder)
    return folder / "records/manifest.json"


def convert(folder: Path) -> Any:
    shards = list(conversion.plan([folder / "list.txt"], shard_size=2))
    rows = ListRows(str(folder), "sparse", 9)
    return conversion.convert(shards, rows, folder / "records", 1, conversion.ProcessGroup())


def use_records(folder: Path) -> Any:
    """What the manifest says, what a conversion makes of it, and whether all is as it says."""
    made = ShardFolder(folder / "records")
    before = list(made.reports().values())
    after = convert(folder)
    reports, wrong = verify(made.path, 1)
    if wrong:
        raise UserError(wrong[0])
    return before, after, reports


def build_report(folder: Path) -> Path:
    """As a run that was killed leaves it: shards and their reports, and no manifest."""
    manifest = build_records(folder)
    made = ShardFolder(folder / "records")
    for report in made.reports().values():
        made.add(report)
    manifest.unlink()
    return folder / f"records/.shards/{SHARD}.json"


def build_shard(folder: Path) -> Path:
    build_records(folder)
    return folder / "records" / SHARD


def build_index(folder: Path) -> Path:
    return build_shard(folder).with_name(f"{SHARD}.idx")


def use_shard(folder: Path) -> Any:
    return list(records.read_records(folder / "records" / SHARD))


def use_verified_shard(folder: Path) -> Any:
    """A file that ends between two records differs from a whole one in the manifest alone."""
    found = use_shard(folder)
    _, wrong = verify(folder / "records", 1)
    if wrong:
        raise UserError(wrong[0])
    return found


def build_download(folder: Path) -> Path:
    path = folder / "download_manifest.tsv"
    with Manifest(path, SETTINGS, 9) as manifest:
        for row in range(4):
            name, digest = f"{row}.jpg", f"{row}a" * 32
            entry = Entry(row, f"http://x/{name}", "ok", name, 10 + row, digest, 4, 3)
            manifest.append(entry)
        manifest.append(Entry(4, "http://x/ü", "http_404", error="not found"))
    return path


def use_download(folder: Path) -> Any:
    with Manifest(folder / "download_manifest.tsv", SETTINGS, 9) as manifest:
        return list(manifest.entries())


def build_result(folder: Path) -> Path:
    shards = ResultShards(folder / "result.csv", {"depth": 50})
    write_rows(shards, 0, 9)
    return shards.folder / "000000000000.json"


def write_rows(shards: ResultShards, start: int, stop: int) -> None:
    with ShardWriter(shards, start) as writer:
        for number in range(start, stop):
            writer.append(b"%d.jpg,%d\n" % (number, number * 7), 1, number % 2)


def build_rows(folder: Path) -> Path:
    return build_result(folder).with_suffix("")


def use_result(folder: Path) -> Any:
    """How far the run had come, and the bytes of the result that it continues to."""
    shards = ResultShards(folder / "result.csv", {"depth": 50})
    found = shards.totals(12)
    for start, stop in shards.gaps(0, 12, 12, 1):
        write_rows(shards, start, stop)
    return *found, shards.join(12, b"image,label\n").read_bytes()


def build_imagenet(folder: Path) -> Path:
    lines = "".join(f"{n}\t{n * 5}\t{f'{n}b' * 32}\n" for n in (1, 3, 8))
    report = {"name": "n00000007", "source": "ab" * 32, "images": lines}
    Extractor(folder).reports.add(report)
    return folder / ".extracted/n00000007.json"


def use_imagenet(folder: Path) -> Any:
    found = Extractor(folder).found(7)
    return found.numbers.tolist(), found.hashes


def begun(answer: Any) -> list:
    """A result that is begun again is right too."""
    return [answer, (0, 0, answer[2])]


KINDS = {
    "checkpoint JSON": latest_file(".json"),
    "checkpoint index": latest_file(".index"),
    "checkpoint data": latest_file(".data-00000-of-00001"),
    "list of checkpoints": Kind(
        lambda folder: Path(build_checkpoint(folder)).with_name("checkpoint"), use_checkpoint
    ),
    "SHA-256 of a checkpoint": Kind(build_sums, use_sums),
    "record manifest": Kind(build_records, use_records),
    "shard report": Kind(build_report, use_records),
    "record file": Kind(build_shard, use_verified_shard),
    "record index": Kind(build_index, use_shard),
    "download manifest": Kind(
        build_download, use_download, lambda answer: [answer[:n] for n in range(len(answer) + 1)]
    ),
    "result shard": Kind(build_result, use_result, begun),
    "rows of a result": Kind(build_rows, use_result, begun),
    "extraction report": Kind(build_imagenet, use_imagenet),
}


def lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda data: b"".join(change(data.splitlines(keepends=True)))


def middle(data: bytes, text: bytes) -> bytes:
    return data[: len(data) // 2] + text + data[len(data) // 2 + len(text) :]


DAMAGES = {
    "empty": lambda data: b"",
    "cut to a half": lambda data: data[: len(data) // 2],
    "last byte lost": lambda data: data[:-1],
    "first byte lost": lambda data: data[1:],
    "middle lost": lambda data: data[: len(data) // 3] + data[2 * len(data) // 3 :],
    "twice": lambda data: data + data,
    "end repeated": lambda data: data + data[len(data) // 2 :],
    "halves exchanged": lambda data: data[len(data) // 2 :] + data[: len(data) // 2],
    "all zeros": lambda data: bytes(len(data)),
    "zeros inside": lambda data: middle(data, bytes(16)),
    "zeros behind": lambda data: data + bytes(512),
    "noise": lambda data: random.Random(1).randbytes(len(data)),
    "noise inside": lambda data: middle(data, random.Random(2).randbytes(16)),
    "not UTF-8": lambda data: middle(data, b"\xe4"),
    "UTF-16": lambda data: data.decode("latin-1").encode("utf-16"),
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "capitals": lambda data: data.upper(),
    "a letter more": lambda data: middle(data, b"x") + b"x",
    "digits altered": lambda data: data.translate(bytes.maketrans(b"12345678", b"23456781")),
    "a digit altered": lambda data: re.sub(rb"[1-8]", lambda m: b"9", data, count=1),
    "digits exchanged": lambda data: re.sub(rb"(\d)(?!\1)(\d)", rb"\2\1", data, count=1),
    "negative": lambda data: re.sub(rb"(?<=[\t ])(?=\d)", b"-", data),
    "huge": lambda data: re.sub(rb"(?<=[\t ])\d", b"9" * 5000, data),
    "line lost": lines(lambda found: found[:1] + found[2:]),
    "last line repeated": lines(lambda found: found + found[-1:]),
    "lines exchanged": lines(lambda found: found[:1] + found[2:3] + found[1:2] + found[3:]),
    "lines reversed": lines(lambda found: found[::-1]),
    "other text": lambda data: b"something else\n",
    "a web page": lambda data: b"<!doctype html><p>gone</p>\n",
    "null": lambda data: b"null\n",
    "NaN": lambda data: b"NaN\n",
    "a list": lambda data: b"[]\n",
    "an object": lambda data: b"{}\n",
    "deep": lambda data: b"[" * 100_000,
    "deep objects": lambda data: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}


class Built(NamedTuple):
    """A folder with a file of a kind, and the answers that are right for it."""

    kind: Kind
    folder: Path
    file: Path
    rights: list


def build(name: str, folder: Path) -> Built:
    kind, sound = KINDS[name], folder / "sound"
    sound.mkdir()
    file = kind.build(sound).relative_to(sound)
    with copied(sound, folder / "first") as copy:
        rights = kind.rights(kind.use(copy))
    return Built(kind, sound, file, [localized(answer, folder / "first") for answer in rights])


@contextmanager
def copied(sound: Path, copy: Path) -> Iterator[Path]:
    """A copy that may be changed; what is next to it must not be."""
    for victim in ("victim", "victim.txt", "victim.txt.json", "victim.json"):
        copy.with_name(victim).write_text("precious")
    shutil.copytree(sound, copy)
    yield copy
    shutil.rmtree(copy)
    for victim in copy.parent.glob("victim*"):
        assert victim.read_text() == "precious"
    assert len(list(copy.parent.glob("victim*"))) == 4


def localized(answer: Any, folder: Path) -> str:
    """An answer as text, without the name of the folder."""
    return repr(answer).replace(str(folder), "")


def reported(built: Built, copy: Path) -> str:
    """The error of one line that the damage gives, or "" where the answer is right."""
    try:
        answer = built.kind.use(copy)
    except (ValueError, OSError) as error:
        ours = type(error).__module__.split(".")[0] in ("data", "models")
        assert ours or isinstance(error, OSError), repr(error)
        assert copy.name in str(error) and "\n" not in str(error), str(error)
        assert len(str(error)) < 1000
        return str(error)
    assert localized(answer, copy) in built.rights
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_told_or_does_no_harm(name, tmp_path):
    built = build(name, tmp_path)
    data = (built.folder / built.file).read_bytes()
    for damage, change in DAMAGES.items():
        with copied(built.folder, tmp_path / "copy") as copy:
            (copy / built.file).write_bytes(change(data))
            try:
                reported(built, copy)
            except BaseException as error:
                raise AssertionError(f"{damage}: {error!r:.500}") from error
    with copied(built.folder, tmp_path / "copy") as copy:
        (copy / built.file).unlink()
        (copy / built.file).mkdir()
        assert reported(built, copy)


def without_seals(data: bytes) -> bytes:
    """A download manifest as versions before checksums wrote it."""
    return b"".join(line[:-9] + b"\n" for line in data.splitlines()).replace(b"\tcrc32c", b"")


def without_head(data: bytes) -> bytes:
    heads = ("format", "version", "checksum")
    content = json.loads(data)
    return json.dumps({key: content[key] for key in content if key not in heads}).encode()


EARLIER = {
    **dict.fromkeys(("checkpoint JSON", "record manifest", "shard report"), without_head),
    "list of checkpoints": lines(lambda found: found[1:]),
    "download manifest": without_seals,
}


@pytest.mark.parametrize("name", EARLIER)
def test_files_of_versions_before_checksums_are_read(name, tmp_path):
    built = build(name, tmp_path)
    data = EARLIER[name]((built.folder / built.file).read_bytes())
    with copied(built.folder, tmp_path / "copy") as copy:
        (copy / built.file).write_bytes(data)
        assert reported(built, copy) == ""
    if name == "download manifest":
        with copied(built.folder, tmp_path / "copy") as copy:
            (copy / built.file).write_bytes(data)
            with Manifest(copy / built.file, SETTINGS, 9) as manifest:
                manifest.append(Entry(5, "http://x/5", "http_404"))
            assert use_download(copy)[-1].row == 5


def flips(name: str, folder: Path, count: int, seed: int) -> Counter:
    """How many of `count` flipped bits gave an error, and how many the right answer."""
    built, found, draw = build(name, folder), Counter(), random.Random(f"{name} {seed}")
    data = (built.folder / built.file).read_bytes()
    for _ in range(count):
        bit = draw.randrange(8 * len(data))
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << bit % 8
        with copied(built.folder, folder / "copy") as copy:
            (copy / built.file).write_bytes(altered)
            try:
                found["error" if reported(built, copy) else "right"] += 1
            except AssertionError as error:
                raise AssertionError(f"{name}: bit {bit}: {error}") from error
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_flipped_bits_never_give_another_result(name, tmp_path):
    assert flips(name, tmp_path, FLIPS, seed=7).total() == FLIPS


# What must not stand in a document, whoever wrote it: at `shards[1]` of the record manifest, or at
# the top of a report.
WRONG = [
    *({"name": name} for name in ("../../victim", "../../victim.txt", "/victim", "..\\victim")),
    *({"name": name} for name in ("C:victim", "a/b", "a\0b", "", ".", "..", 7, None, ["a"])),
    *({"rows": rows} for rows in (-1, 2.5, "2", True, None, 1 << 70, math.inf, math.nan, [], {})),
    *({"sha256": digest} for digest in ("", "ab", "AB" * 32, 5)),
    *({"bad": bad} for bad in ({}, "x", [["a", 1]], [None])),
    *({"label_counts": counts} for counts in ("1:2:3", "x", "-1:2", 7, {})),
    *({"items": items} for items in (-1, "9", math.nan, 1 << 70)),
    *({"settings": settings} for settings in (None, [], "depth")),
    {"bad_items": 10}, {"unknown": 1}, {"source": 3}, {"bytes": -5},
]  # fmt: skip
FORMS = {
    "record manifest": ("record manifest", lambda document: document["shards"][1]),
    "shard report": ("shard report", lambda document: document),
    "result shard": ("result shard", lambda document: document),
    "extraction report": ("extraction report", lambda document: document),
}


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_a_document_with_impossible_content_is_an_error(name, sealed, tmp_path):
    built = build(name, tmp_path)
    form, place = FORMS[name]
    source = json.loads((built.folder / built.file).read_text())
    source = {
        key: value for key, value in source.items() if key not in ("format", "version", "checksum")
    }
    for change in [*WRONG, None]:
        document = json.loads(json.dumps(source))
        entry = place(document)
        if change is None:
            del entry["name"]
        elif not (set(change) & set(entry) or "unknown" in change):
            continue
        else:
            entry.update(change)
        with copied(built.folder, tmp_path / "copy") as copy:
            if sealed:
                write_document(copy / built.file, form, document)
            else:
                (copy / built.file).write_text(json.dumps(document))
            assert reported(built, copy), change
    if name == "record manifest":
        source["shards"].append(source["shards"][0])
        with copied(built.folder, tmp_path / "copy") as copy:
            write_document(copy / built.file, form, source)
            assert "names a shard twice" in reported(built, copy)


def campaign(count: int, seed: int) -> None:
    """Prints what `count` flipped bits did to each kind of file."""
    for name in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name:25} {dict(flips(name, Path(folder), count, seed))}", flush=True)
