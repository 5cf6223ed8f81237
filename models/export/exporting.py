"""Exports a network; runs each export and compares its output with the network's."""

import dataclasses
import functools
import importlib.util
import itertools
import runpy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from data.common.images import probe
from models.calibration import Calibration
from models.checkpoints import weight_files
from models.export.saved_model import BYTES_SIGNATURE, TENSOR_SIGNATURE, ServedNetwork
from models.resnet import ResNet

SAVED_MODEL, ONNX, PYTORCH = "saved_model", "model.onnx", "model.safetensors"
SERVED_FORMATS = ("JPEG", "PNG")  # The SavedModel decodes no others.
PYTORCH_LOADER = Path(__file__).with_name("pytorch_network.py")


class Check(NamedTuple):
    """A comparison of an export with the checkpoint.

    Attributes:
      what: the export and which of its outputs.
      difference: the largest absolute one, relative to the largest value of the checkpoint's
        output.
      tolerance: the largest `difference` that is accepted.
    """

    what: str
    difference: float
    tolerance: float


def compare(what: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> Check:
    """Compares an export's output with the checkpoint's; the shapes must be equal.

    Raises UserError if the shapes differ, the values differ by more than `tolerance`, or a value
    is NaN.
    """
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise UserError(f"{what}: shape {found.shape} instead of {expected.shape}")
    difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    if not difference <= tolerance:  # Also true of NaN.
        raise UserError(
            f"{what} differs from the checkpoint by {difference:.2e}, more than {tolerance:g}"
        )
    return Check(what, difference, tolerance)


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A network to export, and the images on which each export is compared with it.

    Attributes:
      network: the checkpoint's network, without folded batch norms.
      served: the network that the SavedModel runs; its batch norms may be folded.
      prepare: TensorFlow function from an encoded image (string scalar) to float32 [S, S, 3] in
        [-1, 1]; it becomes part of the SavedModel.
      image_size: S, in pixels.
      epsilon: of batch norm.
      names: of the classes, C of them.
      calibration: how scores are computed from logits.
      top_k: number of best classes that the SavedModel returns per image.
      encoded: B image files as bytes, to compare outputs on.
      images: the same images as input of the network, float32 [B, S, S, 3], computed without
        `prepare`, so that a mistake in it is found.
      tolerance: largest accepted difference of logits, relative to the largest logit.

    Raises UserError if the network is not a `ResNet`: exports are written for its layers.
    """

    network: ResNet
    served: ResNet
    prepare: Callable[[tf.Tensor], tf.Tensor]
    image_size: int
    epsilon: float
    names: Sequence[str]
    calibration: Calibration
    top_k: int
    encoded: Sequence[bytes]
    images: np.ndarray
    tolerance: float

    def __post_init__(self) -> None:
        if not isinstance(self.network, ResNet):
            kind = type(self.network).__name__
            raise UserError(f"the checkpoint holds a {kind}: export.py exports only ResNet")

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """The network's logits of `images`, [B, C], which every export must reproduce."""
        return self.network(self.images).numpy()

    def tensors(self) -> dict[str, np.ndarray]:
        """The network's variables: checkpoint name -> array."""
        return {name: v.numpy() for name, v in self.network.variables_by_name().items()}

    def check(self, what: str, logits: np.ndarray) -> Check:
        """Compares an export's logits [B, C] with the network's; raises UserError."""
        return compare(what, logits, self.logits, self.tolerance)


def export_saved_model(source: Source, folder: Path) -> list[Check]:
    """Writes the folder `saved_model`, loads it back and checks both signatures.

    The one for encoded images is checked on the images in `SERVED_FORMATS`.
    """
    served = ServedNetwork(
        *(source.served, source.prepare, source.image_size),
        *(source.names, source.calibration, source.top_k),
    )
    served.save(folder / SAVED_MODEL)
    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    from_images = loaded.signatures[TENSOR_SIGNATURE](images=tf.constant(source.images))
    checks = [source.check(f"{SAVED_MODEL}, logits of images", from_images["logits"])]
    servable = [probe(image).format in SERVED_FORMATS for image in source.encoded]
    if not any(servable):
        return checks
    images = list(itertools.compress(source.encoded, servable))
    best = loaded.signatures[BYTES_SIGNATURE](image_bytes=tf.constant(images))
    scores = source.calibration.activate(source.logits[servable]).numpy()
    best_scores = np.take_along_axis(scores, best["classes"].numpy(), axis=1)
    what = f"{SAVED_MODEL}, best scores of the {len(images)} that are JPEG or PNG"
    return [*checks, compare(what, best["scores"], best_scores, source.tolerance)]


def export_onnx(source: Source, folder: Path) -> list[Check]:
    """Writes `model.onnx` and checks it in ONNX Runtime."""
    onnx = _import_optional("models.export.onnx_file")
    onnx.write(
        folder / ONNX,
        source.tensors(),
        source.network.resnet_size,
        source.calibration,
        source.epsilon,
        {"classes": "\n".join(source.names), "image_size": str(source.image_size)},
    )
    return [source.check(ONNX, onnx.open_network(folder / ONNX)(source.images)["logits"])]


def export_pytorch(source: Source, folder: Path) -> list[Check]:
    """Writes `model.safetensors` and the module that loads it; checks them in PyTorch.

    Without PyTorch, the file is read back and every tensor must be equal.
    """
    _import_optional("safetensors")
    weight_files.write_safetensors(
        folder / PYTORCH, source.tensors(), source.network.resnet_size, source.epsilon
    )
    shutil.copy(PYTORCH_LOADER, folder)
    if importlib.util.find_spec("torch") is None:
        back = weight_files.read(folder / PYTORCH)
        checks = [
            compare(f"{PYTORCH}, {name}", back[name], value, 0.0)
            for name, value in source.tensors().items()
        ]
        return [checks[0]._replace(what=f"{PYTORCH}, {len(checks)} tensors (no PyTorch here)")]
    return [source.check(PYTORCH, _run_pytorch(folder, source.images))]


def _run_pytorch(folder: Path, images: np.ndarray) -> np.ndarray:
    """Logits [B, C] of images [B, H, W, 3], using only the files in `folder`."""
    import torch

    loader = runpy.run_path(str(folder / PYTORCH_LOADER.name))  # leaves no __pycache__ there
    network = loader["load"](str(folder / PYTORCH))
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def _import_optional(name: str) -> ModuleType:
    """Imports a module that only exports need; raises UserError if a package is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{error}: pip install -e '.[export]'") from error


EXPORTERS = {"saved_model": export_saved_model, "onnx": export_onnx, "pytorch": export_pytorch}
