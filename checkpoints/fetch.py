"""Downloads or copies a checkpoint into this folder from a URL, an archive or a folder.

    python checkpoints/fetch.py SOURCE [--name NAME] [--sha256 FILE=HEX]...

SOURCE is the URL or path of an archive (.zip, .tar, .tar.gz, .tgz) with one checkpoint, or of a
checkpoint's prefix (which fetches its `.index` and `.data-00000-of-00001`). A path may also be a
folder, whose latest checkpoint is used. The same command resumes an interrupted download. The
checkpoint appears only when it is complete and `verify.py` finds no problem.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)

from checkpoints.transfer import Limits, download
from checkpoints.verify import SUMS, problems
from data.common import command
from data.common.errors import UserError
from data.common.files import sha256
from data.common.lazy_module import LazyModule

if TYPE_CHECKING:
    from models.checkpoints import checkpoint
else:  # it imports TensorFlow, but --help must be fast
    checkpoint = LazyModule("models.checkpoints.checkpoint")

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_PARTS = (".index", ".data-00000-of-00001")
_MEMBER = re.compile(r"([\w.-]+?)(\.index|\.data-\d{5}-of-\d{5}|\.json)")


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    from data.common import start_tensorflow  # noqa: F401

    limits = Limits(
        max_bytes=int(args.max_gigabytes * 1e9),
        silence_seconds=args.silence_seconds,
        total_seconds=args.total_minutes * 60,
    )
    wrong = next((pair for pair in args.sha256 if "=" not in pair), None)
    if wrong:
        raise UserError(f"--sha256 {wrong}: expected FILE=HEX")
    sums = dict(pair.rsplit("=", 1) for pair in args.sha256)
    try:
        print(fetch(args.source, Path(args.to), args.name, sums, limits))
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{args.source}: {error}") from error
    return 0


def fetch(
    source: str, folder: Path, name: str | None, sums: dict[str, str], limits: Limits
) -> Path:
    """Fetches `source` into `folder`, renamed to `name` if given; returns the checkpoint's prefix.

    Args:
      sums: maps file names as in the source to SHA-256 in hexadecimal.

    Raises UserError: it cannot be fetched, or is damaged.
    """
    if name:
        _refuse_existing(folder / name)
    # Named after the source, so that the next run finds the partial download.
    work = folder / f".fetch-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    work.mkdir(parents=True, exist_ok=True)
    try:
        arrived = _obtain(source, work, limits)
    except (ValueError, OSError):
        if not any(work.iterdir()):
            work.rmdir()
        raise
    try:
        held = _unpack(arrived, work, limits.max_bytes) if source.endswith(ARCHIVES) else arrived
        _check_sums(work, sums)
        wrong = list(problems(held, name or held.name))
        if wrong:
            raise UserError(f"{source} is damaged: {'; '.join(wrong)}")
    except (ValueError, tarfile.TarError, zipfile.BadZipFile):
        shutil.rmtree(work)  # The next run could not use it.
        raise
    prefix = folder / (name or held.name)
    _refuse_existing(prefix)
    _place(held, prefix)
    shutil.rmtree(work)
    return prefix


def _obtain(source: str, work: Path, limits: Limits) -> Path:
    """Fetches `source`; returns the archive, or the prefix of the checkpoint in `work`."""
    is_url = urlsplit(source).scheme in ("http", "https")
    if not source.endswith(ARCHIVES):
        return _from_url(source, work, limits) if is_url else _from_folder(source, work)
    archive = Path(source)
    if is_url:
        archive = work / Path(urlsplit(source).path).name
        if not archive.exists():
            download(source, archive, limits)
    return archive


def _from_url(source: str, work: Path, limits: Limits) -> Path:
    prefix = work / Path(urlsplit(source).path).name
    for suffix in _PARTS:
        path = Path(f"{prefix}{suffix}")
        if not path.exists():
            download(f"{source}{suffix}", path, limits)
    return prefix


def _from_folder(source: str, work: Path) -> Path:
    prefix = Path(checkpoint.find(source))
    for path in checkpoint.files_of(prefix):
        if _MEMBER.fullmatch(path.name):
            shutil.copyfile(path, work / path.name)
    return work / prefix.name


def _unpack(archive: Path, work: Path, max_bytes: int) -> Path:
    names = set()
    for member, stream in _members(archive):
        match = _MEMBER.fullmatch(Path(member).name)
        if match is None:
            continue
        names.add(match[1])
        with stream, open(work / match[0], "wb") as file:
            while chunk := stream.read(1 << 20):
                max_bytes -= file.write(chunk)
                if max_bytes < 0:
                    raise UserError(f"{archive}: more than --max_gigabytes when unpacked")
    if len(names) != 1:
        found = ", ".join(sorted(names)) or "none"
        raise UserError(f"{archive} must have exactly one checkpoint, but has: {found}")
    return work / names.pop()


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as held:
            for info in held.infolist():
                if not info.is_dir():
                    yield info.filename, held.open(info)
        return
    with tarfile.open(archive) as held:
        for member in held:
            if member.isfile():
                yield member.name, held.extractfile(member)


def _check_sums(work: Path, sums: dict[str, str]) -> None:
    for name, expected in sums.items():
        if not (work / name).is_file():
            held = ", ".join(sorted(path.name for path in work.iterdir()))
            raise UserError(f"--sha256 names {name}, which is not one of: {held}")
        if sha256(work / name) != expected.lower():
            raise UserError(f"{name}: its SHA-256 differs from --sha256")


def _refuse_existing(prefix: Path) -> None:
    if Path(f"{prefix}.index").exists():
        raise UserError(f"{prefix} exists: choose another --name, or remove it")


def _place(held: Path, prefix: Path) -> None:
    """Moves the files to `prefix`; the index last, because it makes them a checkpoint."""
    files = [path for path in checkpoint.files_of(held) if _MEMBER.fullmatch(path.name)]
    moves = {path: Path(f"{prefix}{path.name.removeprefix(held.name)}") for path in files}
    lines = [f"{sha256(path)}  {target.name}\n" for path, target in moves.items()]
    Path(f"{prefix}{SUMS}").write_text("".join(lines), encoding="utf-8")
    for path in sorted(files, key=lambda path: path.suffix == ".index"):
        os.replace(path, moves[path])


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="URL, archive, prefix or folder")
    add("--name", help="new name, e.g. ckpt-resnet101-mlimages (default: as in the source)")
    add("--to", default=str(HERE), help="target folder (%(default)s)")
    add("--sha256", action="append", default=[], metavar="FILE=HEX", help="expected checksum")
    add("--max_gigabytes", type=float, default=8.0, help="maximum size (%(default)s)")
    add("--silence_seconds", type=float, default=60.0, help="timeout without data (%(default)s)")
    add("--total_minutes", type=float, default=360.0, help="timeout of a download (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command.run(main)
