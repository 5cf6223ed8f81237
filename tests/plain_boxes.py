"""Boxes for tests, and what plain NumPy says of them, written apart from the product's."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """As `data.input.dense.DetectionBatch`."""

    images: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    sample_index: np.ndarray


def random_boxes(seed: int, count: int = 300, side: int = 512) -> np.ndarray:
    """float32 [count, 4] in eighths of a pixel, inside side x side."""
    draw = np.random.RandomState(seed)
    first = draw.randint(0, side * 8 - 400, (count, 2))
    last = np.minimum(first + draw.randint(80, 1600, (count, 2)), side * 8)
    return (np.concatenate([first, last], axis=1) / 8).astype(np.float32)


def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes [4]."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    common = max(height, 0) * max(width, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def plain_ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU [A, N], pair by pair in float64."""
    pairs = [[plain_iou(a, b) for b in others.astype(float)] for a in boxes.astype(float)]
    return np.array(pairs).reshape(len(boxes), len(others))


def plain_nms(boxes: np.ndarray, scores: np.ndarray, min_iou: float) -> list[int]:
    """The boxes that stay, best first."""
    kept = []
    for place in np.argsort(-scores, kind="stable"):
        if all(plain_iou(boxes[place], boxes[other]) <= min_iou for other in kept):
            kept.append(int(place))
    return kept


def summary(values: np.ndarray) -> list[float]:
    """Three numbers that hardly two arrays share: sum, weighted sum, largest size."""
    flat = np.asarray(values, np.float64).ravel()
    return [flat.sum(), flat @ np.cos(np.arange(len(flat))), np.abs(flat).max()]
