"""Converts annotated images to TFRecord shards, for detection or segmentation.

    python data/dense_records.py --voc VOCdevkit/VOC2007 --split trainval --tfrecords records/
    python data/dense_records.py --voc VOCdevkit/VOC2012 --split train --tasks masks --tfrecords ...
    python data/dense_records.py --coco instances.json --images images/ --tfrecords records/
    python data/dense_records.py --masks masks/ --images images/ --classes names.txt --tfrecords ...

A --voc folder without ImageSets may hold your own VOC-style XML files: give --classes and --images.
The class names are written to classes.txt next to the records. Images that cannot be used are
listed in bad_images.tsv. Like data/tfrecord.py, this script resumes after an interruption, checks
the records with --verify, and divides the work with mpirun or --part.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command
from data.common.errors import UserError
from data.dense import coco, masks, voc
from data.dense.annotation import BACKGROUND, AnnotatedImage, read_class_names
from data.dense.conversion import DenseRows
from data.dense.records import write_class_names
from data.tfrecords import conversion_script
from data.tfrecords.conversion import suffix_in

BOXES, MASKS = TASKS = ("boxes", "masks")


@command.one_line_errors(resumes=True)
def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    if args.verify:
        return conversion_script.verify(args)
    images, names = _annotated(args)
    rows = DenseRows(images, names, conversion_script.image_options(args))
    shards = rows.shards(args.shard_size, args.start_index, suffix_in(args.tfrecords))
    write_class_names(args.tfrecords, names)
    return conversion_script.run(args, shards, rows)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--voc", action="append", help="a folder like VOC2007; may be given several times")
    add("--coco", help="a JSON file of COCO instances; only its boxes are used")
    add("--masks", help="a folder of masks: PNGs named like the images; pixels are classes")
    add("--images", help="the folder of images (--voc: JPEGImages, or next to the XML files)")
    add("--split", help="for --voc: a list in ImageSets (trainval)")
    add("--tasks", choices=TASKS, help="what the records hold (boxes; with --masks, masks)")
    add("--classes", help="file of class names, one per line; for masks, background first (VOC's)")
    add("--mask_folder", default=voc.MASKS, help="for --voc: such as SegmentationClassAug for SBD")
    args = conversion_script.parse(parser, argv)
    if not args.verify:
        _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if sum(map(bool, (args.voc, args.coco, args.masks))) != 1:
        parser.error("give one of --voc, --coco and --masks (or --verify)")
    args.tasks = args.tasks or (MASKS if args.masks else BOXES)
    if not args.voc and not args.images:
        parser.error("--images, the folder of images, is required")
    if not args.voc and args.split:
        parser.error("--split is for --voc")
    if args.coco and args.tasks == MASKS:
        parser.error(
            "--coco reads boxes, not polygons: draw the polygons into a PNG for each image"
            " (pycocotools' annToMask), and give --masks"
        )
    if args.coco and args.classes:
        parser.error("--coco already names its classes: leave out --classes")
    if args.masks and args.tasks == BOXES:
        parser.error("--masks has no boxes: leave out --tasks")
    if args.masks and not args.classes:
        parser.error(f"--masks needs --classes, a file of class names, {BACKGROUND} first")


def _annotated(args: argparse.Namespace) -> tuple[list[AnnotatedImage], list[str]]:
    """All images with their annotations, and the names of the classes."""
    if args.coco:
        return coco.read(args.coco, args.images)
    of_masks = args.tasks == MASKS
    names = list(voc.MASK_CLASSES if of_masks else voc.CLASSES)
    if args.classes:
        names = read_class_names(args.classes)
    if of_masks and not 1 < len(names) <= 255:
        raise UserError(f"{args.classes}: {len(names)} classes; masks can have 2 to 255")
    if args.masks:
        return masks.mask_images(args.masks, args.images, len(names)), names
    found = []
    for root in args.voc:
        if of_masks:
            more = voc.mask_images(root, args.split, len(names), args.images, args.mask_folder)
        else:
            more = voc.box_images(root, args.split, names, args.images)
        found += more
    return found, names


if __name__ == "__main__":
    command.run(main, shares_work=True)
