"""HTML page or contact sheet with the predictions for the first images."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.common import html_report
from data.common.errors import UserError
from data.common.files import atomic_write
from data.input.image_batches import ImageBatch, center_crop, center_image
from data.outputs.predictions import Prediction

IMAGE_SIDE = 224
SHEET_COLUMNS = 6
WARM, HOT = np.array([255, 225, 0]), np.array([215, 0, 0])  # colors of heat maps
LARGEST_OPACITY = 0.7
SUFFIXES = (".html", ".png")


class PredictionPage:
    """Collects the first `limit` predictions with small copies of their images.

    Args:
      explained: number of top labels per image that are shown with heat maps.
      explain: returns heat maps [L, S, S] in [0, 1] for an image float32 [S, S, 3] and L classes.
    """

    def __init__(
        self,
        limit: int,
        explained: int = 0,
        explain: Callable[[np.ndarray, Sequence[int]], np.ndarray] | None = None,
    ) -> None:
        self._limit, self._explained, self._explain = limit, explained, explain
        self._shown: list[list[html_report.Tile]] = []  # per image: it and its heat maps

    def add(self, predictions: list[Prediction], batch: ImageBatch) -> None:
        """Adds the predictions of a batch, up to the limit."""
        rows = list(zip(predictions, batch.crops, strict=True))
        for prediction, crops in rows[: self._limit - len(self._shown)]:
            image = Image.new("RGB", (IMAGE_SIDE, IMAGE_SIDE), "#dddddd")
            if not prediction.problem:
                image = center_image(crops)
            tile = html_report.Tile(image, _caption(prediction), _is_right(prediction))
            self._shown.append([tile, *self._heat_maps(prediction, crops, image)])

    def write(self, path: str) -> None:
        """Writes an HTML page that contains the images, or a PNG contact sheet, by the suffix.

        Raises:
          UserError: the path has another suffix.
        """
        check_suffix(path)
        width = 1 + self._explained  # tiles per image
        if path.endswith(".png"):
            blank = html_report.Tile(Image.new("RGB", (1, 1), html_report.PAPER), "")
            tiles = [t for row in self._shown for t in (row + [blank] * width)[:width]]
            columns = max(1, SHEET_COLUMNS // width) * width
            sheet = html_report.contact_sheet(tiles, columns, IMAGE_SIDE)
            html_report.write_image(path, sheet)
            return
        heading = f"The first {len(self._shown)} images"
        rows = map(_figures, self._shown)
        if self._explained:
            rows = (f"<div>{row}</div>" for row in rows)
        content = html_report.page("Predictions", [(heading, "\n".join(rows))])
        atomic_write(path, content.encode("utf-8", "replace"))

    def _heat_maps(
        self, prediction: Prediction, crops: np.ndarray, image: Image.Image
    ) -> list[html_report.Tile]:
        """The image under the heat map of each top label; none if unreadable or without labels."""
        labels = prediction.labels[: self._explained]
        if not labels:
            return []
        maps = self._explain(center_crop(crops), [label.index for label in labels])
        return [
            html_report.Tile(heated(image, heat), f"why {label.name}?")
            for label, heat in zip(labels, maps, strict=True)
        ]


def heated(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """The image in gray, overlaid with a heat map [S, S] in [0, 1] from yellow to red."""
    hot = heat[..., np.newaxis]
    gray = np.asarray(image.convert("L").convert("RGB"))
    colors = (1 - hot) * WARM + hot * HOT
    opacity = LARGEST_OPACITY * hot
    return Image.fromarray(np.uint8((1 - opacity) * gray + opacity * colors))


def _figures(tiles: list[html_report.Tile]) -> str:
    return "".join(
        html_report.figure(html_report.image_address(tile.image), tile.caption, IMAGE_SIDE)
        for tile in tiles
    )


def check_suffix(path: str) -> None:
    """Raises UserError unless the path ends in one of SUFFIXES."""
    if not path.endswith(SUFFIXES):
        raise UserError(f"--page={path}: the name must end in {' or '.join(SUFFIXES)}")


def _caption(prediction: Prediction) -> str:
    lines = [f"{probability:6.1%}  {name}" for _, name, probability in prediction.labels]
    reported = [f"({prediction.problem})"] if prediction.problem else lines or ["(no label)"]
    return "\n".join([Path(prediction.image).name, *reported])


def _is_right(prediction: Prediction) -> bool | None:
    """Whether the top label is among the labels given in the list; None if either is missing."""
    given = re.findall(r"(?:^| )(\d+)(?=:| |$)", prediction.label)
    if not given or not prediction.labels:
        return None
    return prediction.labels[0].index in map(int, given)
