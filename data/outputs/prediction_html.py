"""HTML page or contact sheet of predictions for the first images."""

import re
from pathlib import Path

from PIL import Image

from data.common import html_report
from data.common.errors import UserError
from data.common.files import atomic_write
from data.input.image_batches import ImageBatch, center_image
from data.outputs.predictions import Prediction

IMAGE_SIDE = 224
SHEET_COLUMNS = 6
SUFFIXES = (".html", ".png")


class PredictionPage:
    """Collects the first `limit` predictions with small copies of their images."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._shown: list[tuple[Prediction, Image.Image | None]] = []

    def add(self, predictions: list[Prediction], batch: ImageBatch) -> None:
        """Adds the predictions of a batch, up to the limit."""
        rows = list(zip(predictions, batch.crops, strict=True))
        for prediction, crops in rows[: self._limit - len(self._shown)]:
            image = None if prediction.problem else center_image(crops)
            self._shown.append((prediction, image))

    def write(self, path: str) -> None:
        """Writes an HTML page that contains the images, or a contact sheet as PNG, by the suffix.

        Raises:
          UserError: the path has another suffix.
        """
        check_suffix(path)
        if path.endswith(".png"):
            tiles = [
                html_report.Tile(_or_blank(image), _caption(row), _is_right(row))
                for row, image in self._shown
            ]
            html_report.write_image(
                path, html_report.contact_sheet(tiles, SHEET_COLUMNS, IMAGE_SIDE)
            )
            return
        figures = [
            html_report.figure(
                html_report.image_address(_or_blank(image)), _caption(row), IMAGE_SIDE
            )
            for row, image in self._shown
        ]
        heading = f"The first {len(figures)} images"
        content = html_report.page("Predictions", [(heading, "\n".join(figures))])
        atomic_write(path, content.encode("utf-8", "replace"))


def check_suffix(path: str) -> None:
    """Raises UserError unless the path ends in one of SUFFIXES."""
    if not path.endswith(SUFFIXES):
        raise UserError(f"--page={path}: the name must end in {' or '.join(SUFFIXES)}")


def _caption(prediction: Prediction) -> str:
    lines = [f"{probability:6.1%}  {name}" for _, name, probability in prediction.labels]
    reported = [f"({prediction.problem})"] if prediction.problem else lines or ["(no label)"]
    return "\n".join([Path(prediction.image).name, *reported])


def _is_right(prediction: Prediction) -> bool | None:
    """Whether the best label is among those in the list; None without labels to compare."""
    given = re.findall(r"(?:^| )(\d+)(?=:| |$)", prediction.label)
    if not given or not prediction.labels:
        return None
    return prediction.labels[0].index in map(int, given)


def _or_blank(image: Image.Image | None) -> Image.Image:
    return image or Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), "#dddddd")
