"""Extracts the images of a list from the archives of the whole ImageNet database.

    python data/extract_imagenet.py --list train_image_id_from_imagenet.txt \\
        --archives fall11_whole.tar --output images/ --im_list train_imagenet.txt

--archives accepts tars of per-synset tars, per-synset tars (n04310904.tar), tars of images, and
folders of any of these, including an unpacked tree (n04310904/n04310904_8388.JPEG). Each is read
once, in order, with synsets in parallel. Run again after an interruption to resume.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command
from data.common.files import rewritten
from data.common.parallel import cores
from data.imagenet import archives, extraction
from data.lists.blocks import Refused

MISSING, DUPLICATES = "missing.txt", "duplicates.txt"


@command.one_line_errors(resumes=True)
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    output = Path(args.output)
    refused = Refused(args.list)
    wanted = extraction.read_wanted(args.list, refused)
    locations, problems = archives.index(args.archives)
    extractor, more = extraction.extract(wanted, locations, output, args.processes)
    problems += more
    lost = _write_lines(output / MISSING, extraction.missing(wanted, extractor))
    groups = extraction.duplicates(wanted, extractor)
    same = _write_lines(output / DUPLICATES, ("\t".join(group) for group in groups))
    if args.im_list:
        rows = extraction.write_found_rows(args.list, args.im_list, wanted, extractor)
        print(f"{rows} rows written to {args.im_list}")
    images = sum(map(len, wanted.numbers.values()))
    print(f"{wanted.rows + wanted.others} rows: {images} images of {len(wanted.numbers)} synsets,")
    print(f"  {wanted.repeated} rows name one again, {wanted.others} are not of ImageNet", end="")
    print(f" ({', '.join(wanted.first_others)})" if wanted.others else "")
    print(f"{images - lost} images found, {lost} missing: {output / MISSING}")
    print(f"{same} groups of images are the same, byte for byte: {output / DUPLICATES}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    refused.report()
    return 1 if problems else 0


def _write_lines(path: Path, lines: Iterable[str]) -> int:
    count = 0
    with rewritten(path) as file:
        for line in lines:
            file.write(f"{line}\n".encode())
            count += 1
    return count


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--list", required=True, help="the list whose images are wanted")
    add("--archives", required=True, nargs="+", help="tars and folders, see above")
    add("--output", required=True, help="the folder for the images")
    add("--im_list", help="file for the rows of the list whose images were found")
    add(
        "--processes", type=int, default=cores(), help="synsets extracted in parallel (%(default)s)"
    )
    return command.parse(parser, argv)


if __name__ == "__main__":
    command.run(main)
