"""Writes the model card, the Markdown file next to an export."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.common.errors import UserError
from data.common.files import sha256
from models.architecture import parameter_count
from models.calibration import Calibration
from models.checkpoints import metadata
from models.checkpoints.checkpoint import Description
from models.export.exporting import Check

# The flags that the card lists; the JSON next to the checkpoint has all of them.
_TRAINING_FLAGS = (
    *("data_dir", "image_size", "batch_size", "accumulate_steps", "optimizer", "lr", "lr_policy"),
    *("weight_decay", "batch_norm_decay", "mask_thres", "neg_select", "loss", "max_iter"),
)
_CARD = """# ResNet-{depth} of Tencent ML-Images, {class_num:,} classes

Exported from `{checkpoint}` ({step}). {parameters:,} trainable parameters.

## Input and output

* RGB images of {side} x {side} pixels, values in [-1, 1] (pixel / 127.5 - 1).
* Preprocessing: apply the EXIF orientation; resize the short side to {short} pixels and the long
  side in proportion, rounded down (bilinear, half-pixel centers, no antialiasing); crop the center
  {side} x {side} pixels.
* `features` [batch, {features}], `logits` and `scores` [batch, {class_num}]; scores are the
  {score} of {logits}: {meaning}. `classes.txt` names the classes in order.

## Files

{files}

{uses}

## Checked when written

The largest difference from the checkpoint's output, relative to its largest value, on
{images} images ({kind}):

{checks}

## Training

{training}

## Limits

* The network knows only the classes it was trained on, and gives every image a score for each of
  them. The labels of ML-Images were partly derived by rules and from another model's predictions:
  they are incomplete, so a class that is not among an image's labels may still be in the image.
* The images come from the web, which is not a fair sample of the world. Measure the accuracy on
  your own images before you rely on it, separately for each group of people if people are shown.

## Citation

Baoyuan Wu et al., "Tencent ML-Images: A Large-Scale Multi-Label Image Database for Visual
Representation Learning", IEEE Access 7, 2019, arXiv:1901.01703.
"""
_MEANINGS = {
    "softmax": "probabilities of all classes that add up to 1",
    "sigmoid": "a separate probability for each class",
}
USES = {
    "saved_model": """**SavedModel.** The signature `serving_default` takes the bytes of JPEG or PNG
files and preprocesses them: JPEGs are turned by their EXIF orientation, and transparency is blended
with white. Convert files of other formats. The signature `tensors` takes preprocessed images.

    model = tf.saved_model.load("saved_model")
    model.signatures["serving_default"](image_bytes=tf.constant([open("a.jpg", "rb").read()]))
    model.signatures["tensors"](images=images)      # float32 [batch, height, width, 3]""",
    "onnx": """**ONNX.** Images are float32 [batch, 3, height, width]:

    onnxruntime.InferenceSession("model.onnx").run(["logits"], {"images": images})""",
    "pytorch": """**PyTorch.** Images are float32 [batch, 3, height, width]:

    from pytorch_network import load
    logits = load("model.safetensors")(images)""",
}


class Exported(NamedTuple):
    """What the card describes.

    Attributes:
      description: of the checkpoint.
      image_size: side of the network's input in pixels.
      calibration: how scores are computed from logits.
      formats: keys of `USES`.
      checks: comparisons of the exports with the checkpoint.
      images: number of images they were made on.
      kind: where the images came from, "given" or "made up".
      meta: the checkpoint's JSON.
    """

    description: Description
    image_size: int
    calibration: Calibration
    formats: Sequence[str]
    checks: Sequence[Check]
    images: int
    kind: str
    meta: dict[str, Any]


def text(exported: Exported, folder: Path) -> str:
    """The card in Markdown; lists the files in `folder` with their SHA-256."""
    network = exported.description
    flags = exported.meta.get("flags", {})
    training = [f"* `--{name}={flags[name]}`" for name in _TRAINING_FLAGS if name in flags]
    return _CARD.format(
        depth=network.resnet_size,
        class_num=network.class_num,
        checkpoint=Path(network.prefix).name,
        step="of an unknown step" if network.step is None else f"step {network.step:,}",
        parameters=parameter_count(network.resnet_size, network.class_num, network.width),
        side=exported.image_size,
        short=exported.image_size * 256 // 224,
        features=32 * network.width,
        **_scores(network.prefix, exported.calibration),
        files=_table(("file", "bytes", "SHA-256"), _files(folder)),
        uses="\n\n".join(USES[name] for name in exported.formats),
        images=exported.images,
        kind=exported.kind,
        checks=_table(
            ("what", "difference", "tolerance"),
            [(c.what, f"{c.difference:.1e}", f"{c.tolerance:g}") for c in exported.checks],
        ),
        training="\n".join(training) or "The checkpoint does not record its training flags.",
    )


def _scores(prefix: str, calibration: Calibration) -> dict[str, str]:
    """What the card says about scores."""
    logits, meaning = "the logits", _MEANINGS[calibration.score]
    if calibration.changes:
        shifted = f"(logits - {calibration.shift:.6g})" if calibration.shift else "logits"
        logits = f"{shifted} / {calibration.temperature:.6g}"
    elif calibration.score == "sigmoid":
        with contextlib.suppress(UserError):  # the training loss is not known
            if shift := metadata.logit_shift(prefix, "sigmoid"):
                meaning += (
                    f", though one as likely as not gets {1 / (1 + math.exp(-shift)):.2f}, because"
                    f" training counted a positive label {math.exp(shift):g} times:"
                    f" logit(probability) = logit - {shift:.6g}"
                )
    return {"score": calibration.score, "logits": logits, "meaning": meaning}


def _files(folder: Path) -> list[tuple[str, ...]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        (f"`{path.relative_to(folder)}`", f"{path.stat().st_size:,}", f"`{sha256(path)}`")
        for path in paths
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
