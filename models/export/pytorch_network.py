"""The network of Tencent ML-Images in PyTorch, for weights that `export.py` has written.

    from pytorch_network import load
    network = load("model.safetensors")     # in evaluation mode
    logits = network(images)                # float32 [B, 3, H, W], RGB in [-1, 1]
    features = network.features(images)     # [B, 2048]

This file stands alone: it needs torch and safetensors, nothing else of the project.
ResNet v2 without max pool; the first block of each stage has stride 2, and its shortcut has a
batch norm and ReLU of its own.
"""

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

BLOCKS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def load(path: str) -> "MLImagesResNet":
    """The network of a safetensors file, in evaluation mode."""
    with safe_open(path, "pt") as file:
        about = file.metadata()
    sizes = [int(about[name]) for name in ("resnet_size", "class_num", "width")]
    network = MLImagesResNet(*sizes, float(about["batch_norm_epsilon"]))
    network.load_state_dict(load_file(path))
    return network.eval()


class MLImagesResNet(nn.Module):
    """`features` [B, 32 * width] and logits [B, class_num] of images [B, 3, H, W] in [-1, 1]."""

    def __init__(
        self, resnet_size: int, class_num: int, width: int = 64, epsilon: float = 1e-5
    ) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv": _convolution(3, width, 7, 2)})
        stages, inputs = [], width
        for stage, count in enumerate(BLOCKS[resnet_size]):
            inner = width << stage
            first = Block(inputs, inner, epsilon, is_first=True)
            others = [Block(4 * inner, inner, epsilon) for _ in range(count - 1)]
            stages.append(nn.ModuleDict({"blocks": nn.Sequential(first, *others)}))
            inputs = 4 * inner
        self.stages = nn.ModuleList(stages)
        self.norm = _norm(inputs, epsilon)
        self.head = nn.ModuleDict({"fc": nn.Linear(inputs, class_num)})

    def features(self, images: torch.Tensor) -> torch.Tensor:
        x = self.stem["conv"](images)
        for stage in self.stages:
            x = stage["blocks"](x)
        return torch.relu(self.norm(x)).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head["fc"](self.features(images))


class Block(nn.Module):
    """Three times batch norm, ReLU, convolution, and the shortcut."""

    def __init__(self, inputs: int, inner: int, epsilon: float, is_first: bool = False) -> None:
        super().__init__()
        stride, outputs = 2 if is_first else 1, 4 * inner
        self.norm1, self.conv1 = _norm(inputs, epsilon), _convolution(inputs, inner, 1)
        self.norm2, self.conv2 = _norm(inner, epsilon), _convolution(inner, inner, 3, stride)
        self.norm3, self.conv3 = _norm(inner, epsilon), _convolution(inner, outputs, 1)
        self.downsample = None
        if is_first:
            norm, convolution = _norm(inputs, epsilon), _convolution(inputs, outputs, 1, stride)
            self.downsample = nn.ModuleDict({"norm": norm, "conv": convolution})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        y = self.conv2(torch.relu(self.norm2(y)))
        y = self.conv3(torch.relu(self.norm3(y)))
        if self.downsample is not None:
            x = self.downsample["conv"](torch.relu(self.downsample["norm"](x)))
        return x + y


def _norm(channels: int, epsilon: float) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, epsilon, momentum=0.003)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2, bias=False)
