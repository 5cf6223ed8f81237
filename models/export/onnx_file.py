"""Writes the network as an ONNX file, node by node, and runs it with ONNX Runtime.

Batch norms are separate nodes: ONNX Runtime folds them into convolutions when it loads a file.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from models.architecture import (
    DENSE_BIAS,
    DENSE_KERNEL,
    FINAL_NORM,
    STEM,
    Block,
    PreActConv,
    blocks,
    kernel_name,
    norm_names,
)
from models.calibration import Calibration

INPUT = "images"
OUTPUTS = ("features", "logits", "scores")
# The oldest versions that support all operations used here, so that old runtimes load the file.
_OPSET, _IR_VERSION = 13, 8
_SCORES = {"softmax": "Softmax", "sigmoid": "Sigmoid"}


def write(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    resnet_size: int,
    calibration: Calibration,
    epsilon: float = 1e-5,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes an ONNX file of the network.

    Its input is `images`, float32 [batch, 3, height, width], RGB in [-1, 1]; its outputs are
    `features` [batch, 32 * width], `logits` and `scores` [batch, C], all float32.

    Args:
      tensors: checkpoint name -> array of the network's variables.
      resnet_size: depth.
      calibration: how scores are computed from logits.
      epsilon: of batch norm.
      metadata: key -> text, stored in the file.
    """
    width = tensors[kernel_name(STEM)].shape[-1]
    graph = _Graph(tensors, epsilon)
    x = graph.convolve(INPUT, STEM, size=7, stride=2)
    for block in blocks(resnet_size, width):
        x = graph.block(x, block)
    x = graph.norm_relu(x, FINAL_NORM)
    pooled = graph.add("GlobalAveragePool", [x], "pool")
    graph.add("Flatten", [pooled], "features")
    dense = [graph.constant(name, tensors[name]) for name in (DENSE_KERNEL, DENSE_BIAS)]
    graph.add("Gemm", ["features", *dense], "logits")
    score, x = calibration.score, "logits"
    if calibration.changes:
        for node, name in (("Sub", "shift"), ("Div", "temperature")):
            value = np.float32(getattr(calibration, name))
            x = graph.add(node, [x, graph.constant(name, value)], f"logits/{name}")
    graph.add(_SCORES[score], [x], "scores", axis=1 if score == "softmax" else None)
    sizes = {"features": 32 * width} | dict.fromkeys(("logits", "scores"), len(tensors[DENSE_BIAS]))
    model = graph.model({name: ["batch", sizes[name]] for name in OUTPUTS})
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    onnx.save(model, path)


def open_network(path: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Loads the file in ONNX Runtime, on the CPU.

    Returns a function from images, float32 [B, H, W, 3], to the arrays of `OUTPUTS` by name.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        values = session.run(list(OUTPUTS), {INPUT: images.transpose(0, 3, 1, 2)})
        return dict(zip(OUTPUTS, values, strict=True))

    return run


class _Graph:
    """Collects nodes and constants; a node and its output have the name of the layer.

    Methods that add nodes take and return the name of a value.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], epsilon: float) -> None:
        self._tensors, self._epsilon = tensors, epsilon
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []

    def add(self, operation: str, inputs: list[str], output: str, **attributes) -> str:
        given = {name: value for name, value in attributes.items() if value is not None}
        self._nodes.append(helper.make_node(operation, inputs, [output], name=output, **given))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def block(self, x: str, block: Block) -> str:
        y = x
        for unit in block.branch:
            y = self._unit(y, unit)
        shortcut = x if block.shortcut is None else self._unit(x, block.shortcut)
        return self.add("Add", [shortcut, y], f"stages_{block.stage}_block_{block.index}/sum")

    def _unit(self, x: str, unit: PreActConv) -> str:
        x = self.norm_relu(x, f"{unit.name}_bn")
        return self.convolve(x, unit.name, unit.size, unit.stride)

    def norm_relu(self, x: str, norm: str) -> str:
        parts = [self.constant(name, self._tensors[name]) for name in norm_names(norm)]
        y = self.add("BatchNormalization", [x, *parts], norm, epsilon=self._epsilon)
        return self.add("Relu", [y], f"{norm}/relu")

    def convolve(self, x: str, name: str, size: int, stride: int) -> str:
        kernel = self._tensors[kernel_name(name)].transpose(3, 2, 0, 1)
        before = (size - 1) // 2
        return self.add(
            "Conv",
            [x, self.constant(kernel_name(name), kernel)],
            name,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[before, before, size - 1 - before, size - 1 - before],
        )

    def model(self, outputs: Mapping[str, list]) -> onnx.ModelProto:
        input_shape = ["batch", 3, "height", "width"]
        graph = helper.make_graph(
            self._nodes,
            "ml-images",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, input_shape)],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
                for name, shape in outputs.items()
            ],
            self._constants,
        )
        return helper.make_model(
            graph,
            producer_name="ml-images",
            ir_version=_IR_VERSION,
            opset_imports=[helper.make_opsetid("", _OPSET)],
        )
