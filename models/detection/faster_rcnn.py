"""Faster R-CNN on the third stage of a ResNet ("C4"); the last stage runs on every region.

Source: Ren et al., "Faster R-CNN", on a ResNet as in He et al., "Deep Residual Learning", with the
numbers of tf-faster-rcnn (docs/transfer.md). Regions are proposed on the map of stride 16 and
cropped from it; stage 3, with stride 1, and two linear layers classify each and refine its box.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from data.common.errors import UserError
from models import layers
from models.architecture import FINAL_NORM, matches
from models.detection import anchors, boxes, crops, targets
from models.detection.anchors import Proposals
from models.detection.boxes import REGION_WEIGHTS
from models.detection.objective import PARTS, region_losses, rpn_losses
from models.detection.options import DetectionOptions
from models.detection.targets import Objects, RegionTargets

FROZEN = ("init/*", "stages_0_*", "*/batch_normalization/*")
"""Name patterns of the backbone's variables that the protocol freezes."""

HEAD = "detection/"
# The batch norm through which stage 3 reads the map of stage 2.
MAP_NORM = "stages_3_block_0/conv1_b2_bn"
_MAP_STAGES, _REGION_STAGE = 3, 3
_STDDEV, _REGION_BOX_STDDEV = 0.01, 0.001


class Detections(NamedTuple):
    """Objects found, best first: boxes [B, D, 4], scores [B, D], classes int32 [B, D].

    Boxes are in pixels of the network's images; scores are probabilities; classes start at 0.
    Padding after the last detection of an image has class -1 and score 0.
    """

    boxes: tf.Tensor
    scores: tf.Tensor
    classes: tf.Tensor


class AnchorOutputs(NamedTuple):
    """The anchors of an image [A, 4], their scores (logits) [A] and offsets [A, 4], float32."""

    anchors: tf.Tensor
    scores: tf.Tensor
    offsets: tf.Tensor


def is_frozen(name: str) -> bool:
    """Whether the protocol freezes the variable with this checkpoint name."""
    return matches(name, FROZEN)


def head_shapes(
    features: int, map_channels: int, class_num: int, options: DetectionOptions
) -> dict[str, tuple[int, ...]]:
    """Checkpoint name -> shape of the detector's own variables."""
    channels, anchors_per_cell = options.rpn_channels, options.anchors_per_cell
    return {
        f"{HEAD}rpn/conv/kernel": (3, 3, map_channels, channels),
        f"{HEAD}rpn/conv/bias": (channels,),
        f"{HEAD}rpn/scores/kernel": (1, 1, channels, anchors_per_cell),
        f"{HEAD}rpn/scores/bias": (anchors_per_cell,),
        f"{HEAD}rpn/boxes/kernel": (1, 1, channels, 4 * anchors_per_cell),
        f"{HEAD}rpn/boxes/bias": (4 * anchors_per_cell,),
        f"{HEAD}classes/kernel": (features, class_num + 1),
        f"{HEAD}classes/bias": (class_num + 1,),
        f"{HEAD}boxes/kernel": (features, 4 * class_num),
        f"{HEAD}boxes/bias": (4 * class_num,),
    }


def initial_head_value(name: str, shape: Sequence[int], seed: int) -> tf.Tensor:
    """The initial value of a detector's variable: a function of its name, shape and `seed`."""
    if name.endswith("/bias"):
        return tf.zeros(shape)
    stddev = _REGION_BOX_STDDEV if name == f"{HEAD}boxes/kernel" else _STDDEV
    return tf.random.stateless_normal(shape, [seed, zlib.crc32(name.encode())], stddev=stddev)


class FasterRCNN(tf.Module):
    """A detector: images -> `detect`; images and objects -> `losses`.

    Images are float32 [B, H, W, 3] in [-1, 1]; B must be known when a graph is traced, H and W need
    not be. An image fills the first rows and columns, as `sizes` says, and the rest is cut off, so
    that a batch gives the same results as its images one by one.

    Args:
      backbone: `models.resnet.ResNet` of output stride 32 in NHWC. Its batch norms should be frozen
        (`freeze_batch_norm`): one image per step is too few to normalize by.
      class_num: C, number of object classes; internally, class 0 is the background.
      options: sizes and thresholds.
      seed: of the heads' initial values and of all random draws.

    Raises:
      UserError: the backbone is in NCHW, or `class_num` is below 1.
    """

    def __init__(
        self,
        backbone: Any,
        class_num: int,
        options: DetectionOptions | None = None,
        seed: int = 1234,
    ) -> None:
        super().__init__(name="faster_rcnn")
        if backbone.data_format != "NHWC":
            raise UserError(f"data_format is {backbone.data_format}: detection needs NHWC")
        if class_num < 1:
            raise UserError(f"class_num is {class_num}: it must be at least 1")
        self.backbone, self.class_num, self.seed = backbone, class_num, seed
        self.options = options or DetectionOptions()
        self.compute_dtype = backbone.compute_dtype
        sides = self.options.anchor_scales, self.options.anchor_ratios
        self._cell_anchors = anchors.cell_anchors(*sides)
        shapes = head_shapes(32 * backbone.width, 16 * backbone.width, class_num, self.options)
        self._heads = {
            name: tf.Variable(initial_head_value(name, shape, seed), name=name)
            for name, shape in shapes.items()
        }

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """Checkpoint name -> variable: the backbone's without its logits layer, and the heads'."""
        return _without_logits(self.backbone.variables_by_name()) | self._heads

    def trainable_by_name(self) -> dict[str, tf.Variable]:
        """The trainable ones; the trainer leaves out those that `is_frozen`."""
        return _without_logits(self.backbone.trainable_by_name()) | self._heads

    def losses(self, batch: Any, training: bool = True) -> dict[str, tf.Tensor]:
        """The four losses of `PARTS`, scalars, each averaged over the images of a batch.

        Args:
          batch: `data.input.dense.DetectionBatch`: images [B, H, W, 3], sizes int32 [B, 2], boxes
            [B, N, 4], classes int32 [B, N] with -1 for padding, sample_index int64 [B].
          training: whether batch norms that are not frozen normalize by the batch.
        """
        maps = self._maps(batch.images, batch.sizes, training)
        of_anchors, drawn = [], []
        for i, image_map in enumerate(maps):
            objects = Objects.padded(batch.boxes[i], batch.classes[i])
            outputs = self._rpn(image_map, training)
            keys = [
                targets.draw_seed(self.seed, purpose, batch.sample_index[i])
                for purpose in (targets.ANCHOR_DRAW, targets.REGION_DRAW)
            ]
            size = batch.sizes[i]
            wanted = targets.anchor_targets(outputs.anchors, objects, size, keys[0], self.options)
            of_anchors.append(rpn_losses(outputs.scores, outputs.offsets, wanted))
            proposals = self._propose(outputs, size, training=True)
            drawn.append(targets.region_targets(proposals, objects, keys[1], self.options))
        regions = RegionTargets(*(tf.stack(values) for values in zip(*drawn, strict=True)))
        logits, offsets = self._classify(maps, regions.boxes, training)
        losses = *zip(*of_anchors, strict=True), *region_losses(logits, offsets, regions)
        return {name: tf.reduce_mean(loss) for name, loss in zip(PARTS, losses, strict=True)}

    def detect(self, images: tf.Tensor, sizes: tf.Tensor) -> Detections:
        """The objects in images [B, H, W, 3] of sizes int32 [B, 2] (height, width)."""
        options = self.options
        maps = self._maps(images, sizes, training=False)
        proposals = [
            self._propose(self._rpn(image_map), sizes[i], training=False)
            for i, image_map in enumerate(maps)
        ]
        regions, valid = (tf.stack(values) for values in zip(*proposals, strict=True))
        logits, offsets = self._classify(maps, regions)
        found = boxes.decode(offsets, regions[:, :, None], REGION_WEIGHTS)
        scores = tf.nn.softmax(logits)[..., 1:]
        kept = tf.image.combined_non_max_suppression(
            boxes.clip(found, sizes[:, None, None]),
            tf.where(valid[..., None], scores, -1.0),
            max_output_size_per_class=options.max_detections,
            max_total_size=options.max_detections,
            iou_threshold=options.nms_iou,
            score_threshold=options.score_threshold,
            clip_boxes=False,
        )
        real = tf.range(options.max_detections) < kept.valid_detections[:, None]
        classes = tf.where(real, tf.cast(kept.nmsed_classes, tf.int32), -1)
        return Detections(kept.nmsed_boxes, kept.nmsed_scores, classes)

    def _maps(self, images: tf.Tensor, sizes: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Stage 2's map [1, h, w, 16 * width] of each image, without its padding."""
        own = [images[i : i + 1, : sizes[i, 0], : sizes[i, 1]] for i in range(images.shape[0])]
        return [self.backbone.stage_maps(x, training, stages=_MAP_STAGES)[-1] for x in own]

    def _rpn(self, image_map: tf.Tensor, training: bool = False) -> AnchorOutputs:
        """The region proposal network's outputs for one image's map [1, h, w, 16 * width].

        It reads the map through the batch norm and ReLU of stage 3, because the raw sums of a
        pre-activation network are not normalized.
        """
        x = self.backbone.norm_relu(image_map, MAP_NORM, training)
        x = tf.nn.relu(self._convolve(x, "rpn/conv"))
        scores, offsets = (
            tf.cast(self._convolve(x, name), tf.float32) for name in ("rpn/scores", "rpn/boxes")
        )
        of_image = anchors.image_anchors(tf.shape(image_map)[1:3], self._cell_anchors)
        return AnchorOutputs(of_image, tf.reshape(scores, [-1]), tf.reshape(offsets, [-1, 4]))

    def _convolve(self, x: tf.Tensor, name: str) -> tf.Tensor:
        kernel, bias = (self._heads[f"{HEAD}{name}/{part}"] for part in ("kernel", "bias"))
        return layers.convolve(x, kernel, 1) + tf.cast(bias, x.dtype)

    def _propose(self, outputs: AnchorOutputs, size: tf.Tensor, training: bool) -> Proposals:
        options = self.options
        before = options.proposals_before_nms if training else options.test_proposals_before_nms
        count = options.proposals if training else options.test_proposals
        return anchors.propose(
            *outputs, size, before_nms=before, count=count, nms_iou=options.proposal_nms_iou
        )

    def _classify(
        self, maps: list[tf.Tensor], regions: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits [B, R, C + 1] and offsets [B, R, C, 4], float32, of regions [B, R, 4]."""
        count, classes = regions.shape[1], self.class_num
        of_images = [
            crops.crop(image_map, regions[i], self.options.region_size)
            for i, image_map in enumerate(maps)
        ]
        x = tf.cast(tf.concat(of_images, axis=0), maps[0].dtype)
        x = self.backbone.run_stage(x, _REGION_STAGE, training, stride=1)
        x = self.backbone.norm_relu(x, FINAL_NORM, training)
        features = tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2])
        logits, offsets = (
            tf.matmul(features, self._heads[f"{HEAD}{name}/kernel"])
            + self._heads[f"{HEAD}{name}/bias"]
            for name in ("classes", "boxes")
        )
        return (
            tf.reshape(logits, [len(maps), count, classes + 1]),
            tf.reshape(offsets, [len(maps), count, classes, 4]),
        )


def _without_logits(variables: dict[str, tf.Variable]) -> dict[str, tf.Variable]:
    return {name: value for name, value in variables.items() if not name.startswith("logits/")}
