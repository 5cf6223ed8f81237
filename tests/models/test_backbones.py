"""The table of backbones, and checkpoints of one that is not there."""

import numpy as np
import pytest

from data.common.errors import UserError
from models import backbones
from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import CheckpointError
from models.prediction import inference
from models.resnet import ResNet

SIZES = {"resnet_size": 50, "width": 8, "class_num": 3}


def save(folder, **flags):
    return checkpoint.save(folder / "model.ckpt-1", {"kernel": np.ones(3, "f4")}, {"flags": flags})


def test_resnet_is_found():
    assert backbones.find("resnet") is ResNet
    with pytest.raises(UserError, match="unknown backbone 'vit': use one of resnet"):
        backbones.find("vit")


def test_sizes_of_another_backbone_are_those_of_its_json(tmp_path):
    found = checkpoint.describe(save(tmp_path, backbone="vit", **SIZES))
    assert {name: getattr(found, name) for name in SIZES} == SIZES and found.backbone == "vit"
    with pytest.raises(UserError, match="unknown backbone 'vit'"):
        inference.load(tmp_path, inference.NetworkOptions())


def test_another_backbone_without_sizes_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="lacks the sizes of its network: resnet_size"):
        checkpoint.describe(save(tmp_path, backbone="vit"))
