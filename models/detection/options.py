"""Options of the detector; the defaults are those of the code that reported VOC 2007 results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data.common.errors import UserError

_FRACTIONS = (
    "rpn_positive_fraction",
    "rpn_positive_iou",
    "rpn_negative_iou",
    "proposal_nms_iou",
    "region_foreground_fraction",
    "region_foreground_iou",
    "region_background_min_iou",
    "nms_iou",
    "score_threshold",
)


@dataclass(frozen=True)
class DetectionOptions:
    """Sizes and thresholds of Faster R-CNN (docs/transfer.md; the protocol of tf-faster-rcnn).

    Attributes:
      anchor_scales: sides of square anchors, in units of 16 pixels.
      anchor_ratios: heights of anchors over their widths.
      rpn_channels: filters of the region proposal network's 3 x 3 convolution.
      rpn_samples, rpn_positive_fraction: number of anchors per image that enter the loss, and the
        largest fraction of them that is positive.
      rpn_positive_iou, rpn_negative_iou: an anchor is positive from the first IoU, negative below
        the second; the best anchor of each object is positive, too.
      proposals_before_nms, proposals: number of best anchors per image that enter non-maximum
        suppression in training, and of those that it keeps.
      test_proposals_before_nms, test_proposals: the same in detection.
      proposal_nms_iou: IoU above which the worse of two proposals is dropped.
      regions, region_foreground_fraction: number of proposals per image that enter the loss, and
        the largest fraction of them that is foreground.
      region_foreground_iou: IoU from which a region is foreground.
      region_background_min_iou: IoU from which a region that is not foreground is background; below
        it, it is left out.
      region_size: rows and columns that a region is resampled to.
      nms_iou: IoU above which the worse of two detections of a class is dropped.
      score_threshold: detections need a higher probability.
      max_detections: largest number per image.

    Raises:
      UserError: a value is out of range.
    """

    anchor_scales: tuple[float, ...] = (8.0, 16.0, 32.0)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_channels: int = 512
    rpn_samples: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_positive_iou: float = 0.7
    rpn_negative_iou: float = 0.3
    proposals_before_nms: int = 12_000
    proposals: int = 2_000
    test_proposals_before_nms: int = 6_000
    test_proposals: int = 300
    proposal_nms_iou: float = 0.7
    regions: int = 256
    region_foreground_fraction: float = 0.25
    region_foreground_iou: float = 0.5
    region_background_min_iou: float = 0.0
    region_size: int = 7
    nms_iou: float = 0.3
    score_threshold: float = 0.0
    max_detections: int = 100

    def __post_init__(self) -> None:
        for name in ("anchor_scales", "anchor_ratios"):
            values = getattr(self, name)
            if not values or min(values) <= 0:
                raise UserError(f"{name} is {values}: give numbers above 0")
        for name, value in self._numbers().items():
            if name in _FRACTIONS and not 0 <= value <= 1:
                raise UserError(f"{name} is {value}: it must be from 0 to 1")
            if name not in _FRACTIONS and value < 1:
                raise UserError(f"{name} is {value}: it must be at least 1")
        if self.rpn_negative_iou > self.rpn_positive_iou:
            raise UserError("rpn_negative_iou is above rpn_positive_iou")

    @property
    def anchors_per_cell(self) -> int:
        """K: anchors at each cell of the map."""
        return len(self.anchor_scales) * len(self.anchor_ratios)

    def _numbers(self) -> dict[str, Any]:
        return {name: v for name, v in vars(self).items() if not isinstance(v, tuple)}
