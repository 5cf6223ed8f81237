"""Small folders of annotated images in the layouts of VOC, COCO and masks."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from data import dense_records

PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, *[7] * 756, 224, 224, 192]


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth random colors."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BILINEAR)


def save(path: Path, image: Image.Image, **options) -> bytes:
    """Writes an image; its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path.read_bytes()


def write(path: Path, text: str | bytes) -> Path:
    """Writes a file in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def xml(objects, size=(60, 40), depth=3) -> str:
    """VOC's XML: objects are (name, xmin, ymin, xmax, ymax[, difficult]); size (width, height)."""
    parts = []
    for name, x1, y1, x2, y2, *difficult in objects:
        box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        parts.append(f"<object><name>{name}</name><difficult>{int(any(difficult))}</difficult>")
        parts.append(f"<part><name>head</name><bndbox/></part><bndbox>{box}</bndbox></object>")
    width, height = size or (0, 0)
    sides = f"<width>{width}</width><height>{height}</height><depth>{depth}</depth>"
    head = f"<filename>../other.jpg</filename><size>{sides}</size>" if size else ""
    return f"<annotation>{head}{''.join(parts)}</annotation>"


def voc_folder(root: Path, annotations: dict[str, str], split: str | None = "trainval") -> Path:
    """A VOC folder of images of 60 x 40 pixels with these XML texts, by name."""
    for number, (name, text) in enumerate(annotations.items()):
        save(root / f"JPEGImages/{name}.jpg", photo(60, 40, number), quality=90)
        write(root / f"Annotations/{name}.xml", text)
    if split:
        names = "".join(f"{name}\n" for name in annotations)
        write(root / f"ImageSets/Main/{split}.txt", names)
    return root


def mask(values: np.ndarray, mode: str = "P", **options) -> bytes:
    """A PNG of class indices, by VOC's palette or gray."""
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image.putpalette(PALETTE)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def coco_file(path: Path, images: list, annotations: list, categories: list) -> Path:
    """A COCO file of these entries."""
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write(path, json.dumps(content))


def convert(output: Path, *arguments) -> int:
    """Runs data/dense_records.py in this process."""
    shared = ["--tfrecords", output, "--processes", "1"]
    return dense_records.main([str(part) for part in (*arguments, *shared)])


def bad_rows(output: Path) -> list[list[str]]:
    """Of each row that was left out the file's name, the image, the kind and the reason."""
    rows = [line.split("\t") for line in (output / "bad_images.tsv").read_text().splitlines()]
    return [[Path(where).name, *rest] for where, *rest in rows]
