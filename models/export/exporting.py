"""Exports of a network, each run at once and compared with the network it comes from."""

import dataclasses
import functools
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from data.common.images import probe
from models.checkpoints import weight_files
from models.export import checks as export_checks
from models.export.checks import Check
from models.export.saved_model import BYTES_SIGNATURE, SCORES, TENSOR_SIGNATURE, ServedNetwork
from models.resnet import ResNet

SAVED_MODEL, ONNX, PYTORCH = "saved_model", "model.onnx", "model.safetensors"
IMAGE_FORMATS = ("JPEG", "PNG")  # that the SavedModel takes
LOADER = Path(__file__).with_name("pytorch_network.py")


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A network and what its exports are checked with.

    Attributes:
      network: with its batch norms as they are in the checkpoint.
      served: the same network for the SavedModel, perhaps folded.
      prepare: an encoded image (string scalar) to float32 [S, S, 3] in [-1, 1], in a graph.
      image_size: S.
      epsilon: of batch norm.
      names: of the classes.
      score: softmax or sigmoid.
      top_k: best classes that the SavedModel names.
      encoded: images as files, to compare outputs on.
      images: the images as the network takes them, [B, S, S, 3], made without `prepare`.
      tolerance: largest difference, relative to the largest logit.

    Raises UserError for another network than a `ResNet`, whose layers the exports do not know.
    """

    network: ResNet
    served: ResNet
    prepare: Callable[[tf.Tensor], tf.Tensor]
    image_size: int
    epsilon: float
    names: Sequence[str]
    score: str
    top_k: int
    encoded: Sequence[bytes]
    images: np.ndarray
    tolerance: float

    def __post_init__(self) -> None:
        if not isinstance(self.network, ResNet):
            kind = type(self.network).__name__
            raise UserError(f"the checkpoint holds a {kind}: export.py exports ResNet alone")

    @functools.cached_property
    def logits(self) -> np.ndarray:
        """What every export must give for `images`, [B, C]."""
        return self.network(self.images).numpy()

    def tensors(self) -> dict[str, np.ndarray]:
        """Checkpoint name -> array of the network's variables."""
        return {name: v.numpy() for name, v in self.network.variables_by_name().items()}

    def check(self, what: str, logits: np.ndarray) -> Check:
        """Compares with `logits`; raises UserError."""
        return export_checks.compare(what, logits, self.logits, self.tolerance)


def export_saved_model(source: Source, folder: Path) -> list[Check]:
    """Writes `saved_model`, loads it again and runs both signatures."""
    served = ServedNetwork(
        *(source.served, source.prepare, source.image_size),
        *(source.names, source.score, source.top_k),
    )
    served.save(folder / SAVED_MODEL)
    loaded = tf.saved_model.load(str(folder / SAVED_MODEL))
    from_images = loaded.signatures[TENSOR_SIGNATURE](images=tf.constant(source.images))
    checks = [source.check(f"{SAVED_MODEL}, logits of images", from_images["logits"])]
    taken = [probe(image).format in IMAGE_FORMATS for image in source.encoded]
    if not any(taken):
        return checks
    images = [image for image, is_taken in zip(source.encoded, taken, strict=True) if is_taken]
    best = loaded.signatures[BYTES_SIGNATURE](image_bytes=tf.constant(images))
    scores = SCORES[source.score](source.logits[taken]).numpy()
    best_scores = np.take_along_axis(scores, best["classes"].numpy(), axis=1)
    what = f"{SAVED_MODEL}, best scores of the {len(images)} that are JPEG or PNG"
    return [*checks, export_checks.compare(what, best["scores"], best_scores, source.tolerance)]


def export_onnx(source: Source, folder: Path) -> list[Check]:
    """Writes `model.onnx` and runs it in ONNX Runtime."""
    onnx = _optional("models.export.onnx_file")
    onnx.write(
        folder / ONNX,
        source.tensors(),
        source.network.resnet_size,
        source.score,
        source.epsilon,
        {"classes": "\n".join(source.names), "image_size": str(source.image_size)},
    )
    return [source.check(ONNX, onnx.open_network(folder / ONNX)(source.images)["logits"])]


def export_pytorch(source: Source, folder: Path) -> list[Check]:
    """Writes `model.safetensors` and its loader; runs them where PyTorch is installed.

    Elsewhere the file is read back and compared tensor by tensor.
    """
    weights = _optional("models.checkpoints.pytorch_weights")
    weights.write(folder / PYTORCH, source.tensors(), source.network.resnet_size, source.epsilon)
    shutil.copy(LOADER, folder)
    if importlib.util.find_spec("torch") is None:
        back = weight_files.read(folder / PYTORCH)
        checks = [
            export_checks.compare(f"{PYTORCH}, {name}", back[name], value, 0.0)
            for name, value in source.tensors().items()
        ]
        return [checks[0]._replace(what=f"{PYTORCH}, {len(checks)} tensors (no PyTorch here)")]
    return [source.check(PYTORCH, _run_pytorch(folder, source.images))]


def _run_pytorch(folder: Path, images: np.ndarray) -> np.ndarray:
    import torch

    spec = importlib.util.spec_from_file_location(LOADER.stem, folder / LOADER.name)
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    network = loader.load(str(folder / PYTORCH))
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def _optional(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{error}: pip install -e '.[export]'") from error


EXPORTERS = {"saved_model": export_saved_model, "onnx": export_onnx, "pytorch": export_pytorch}
