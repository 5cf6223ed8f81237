"""The network of Tencent ML-Images in PyTorch; loads the weights that `export.py` writes.

    from pytorch_network import load
    network = load("model.safetensors")     # in evaluation mode
    logits = network(images)                # float32 [B, 3, H, W], RGB in [-1, 1]
    features = network.features(images)     # [B, 2048]

This file needs torch and safetensors, and no other file of the project.
The network is a ResNet v2 without max pool. The first block of each stage has stride 2, and its
shortcut has its own batch norm and ReLU.
"""

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

BLOCKS = {14: (1, 1, 1, 1), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def load(path: str) -> "MLImagesResNet":
    """Loads a safetensors file; returns the network in evaluation mode."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    sizes = [int(metadata[name]) for name in ("resnet_size", "class_num", "width")]
    network = MLImagesResNet(*sizes, float(metadata["batch_norm_epsilon"]))
    network.load_state_dict(load_file(path))
    return network.eval()


class MLImagesResNet(nn.Module):
    """Logits [B, class_num] of images float32 [B, 3, H, W], RGB in [-1, 1].

    Args:
      resnet_size: depth, a key of `BLOCKS`.
      class_num: number of logits.
      width: filters of the first convolution.
      epsilon: of batch norm.
    """

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
        """Features [B, 32 * width] of images [B, 3, H, W]: the input of the classifier."""
        x = self.stem["conv"](images)
        for stage in self.stages:
            x = stage["blocks"](x)
        return torch.relu(self.norm(x)).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head["fc"](self.features(images))


class Block(nn.Module):
    """Batch norm, ReLU and convolution, three times; adds the shortcut.

    Args:
      inputs: channels of the input; the output has 4 * inner.
      inner: channels of the first two convolutions.
      is_first: whether it is the first block of its stage: stride 2, and a projection shortcut.
    """

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
