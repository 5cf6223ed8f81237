"""The model card (Markdown) that is next to an export."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.common.files import sha256
from models.architecture import parameter_count
from models.checkpoints.checkpoint import Description
from models.export.exporting import Check

# What a reader of the card wants to know of the training; everything else is in the JSON.
_TRAINING_FLAGS = (
    *("data_dir", "image_size", "batch_size", "accumulate_steps", "optimizer", "lr", "lr_policy"),
    *("weight_decay", "batch_norm_decay", "mask_thres", "neg_select", "loss", "max_iter"),
)
_CARD = """# ResNet-{depth} of Tencent ML-Images, {class_num:,} classes

Exported from `{checkpoint}` ({step}). {parameters:,} trainable parameters.

## Input and output

* RGB images of {side} x {side} pixels, values in [-1, 1] (pixel / 127.5 - 1).
* Preprocessing: EXIF orientation applied; the short side resized to {short} pixels, the long side
  in proportion and truncated (bilinear, half-pixel centers, no antialiasing); center crop of
  {side}.
* `features` [batch, {features}], `logits` and `scores` [batch, {class_num}]; scores are the
  {score} of the logits: {meaning}. `classes.txt` names the classes in order.

## Files

{files}

{uses}

## Checked when written

The largest difference from the checkpoint's own output, relative to its largest value, on
{images} images ({kind}):

{checks}

## Training

{training}

## Limits

* The network knows only the classes it was trained on and gives every image some score for each
  of them. Labels of ML-Images were partly derived by rules and from another model's predictions:
  they are incomplete, and absent labels are not always wrong.
* Images come from the web; what people photographed and labeled is not a fair sample of the world.
  Measure on your own images before you rely on it, per group of people where people are shown.

## Citation

Baoyuan Wu et al., "Tencent ML-Images: A Large-Scale Multi-Label Image Database for Visual
Representation Learning", IEEE Access 7, 2019, arXiv:1901.01703.
"""
_MEANINGS = {
    "softmax": "probabilities of all classes that add up to 1",
    "sigmoid": "a probability of each class on its own",
}
USES = {
    "saved_model": """**SavedModel.** `serving_default` takes images, `tensors` takes images.
Images are JPEG or PNG: convert others. Transparency goes over white, and JPEGs are turned by
their EXIF orientation.

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
    """What the card says. `kind` says what the images were; `meta` is the checkpoint's JSON."""

    description: Description
    image_size: int
    score: str
    formats: Sequence[str]
    checks: Sequence[Check]
    images: int
    kind: str
    meta: dict[str, Any]


def text(exported: Exported, folder: Path) -> str:
    """The card, Markdown, for the files in `folder`."""
    found = exported.description
    flags = exported.meta.get("flags", {})
    training = [f"* `--{name}={flags[name]}`" for name in _TRAINING_FLAGS if name in flags]
    return _CARD.format(
        depth=found.resnet_size,
        class_num=found.class_num,
        checkpoint=Path(found.prefix).name,
        step="no step stored" if found.step is None else f"step {found.step:,}",
        parameters=parameter_count(found.resnet_size, found.class_num, found.width),
        side=exported.image_size,
        short=exported.image_size * 256 // 224,
        features=32 * found.width,
        score=exported.score,
        meaning=_MEANINGS[exported.score],
        files=_table(("file", "bytes", "SHA-256"), _files(folder)),
        uses="\n\n".join(USES[name] for name in exported.formats),
        images=exported.images,
        kind=exported.kind,
        checks=_table(
            ("what", "difference", "tolerance"),
            [(c.what, f"{c.difference:.1e}", f"{c.tolerance:g}") for c in exported.checks],
        ),
        training="\n".join(training) or "The checkpoint does not say its flags.",
    )


def _files(folder: Path) -> list[tuple[str, ...]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        (f"`{path.relative_to(folder)}`", f"{path.stat().st_size:,}", f"`{sha256(path)}`")
        for path in paths
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
