"""One thread, and a backbone for short trainings."""

import pytest
import torch

from alan.backbone.checkpoint import export_backbone
from alan.backbone.load import random_backbone
from alan.backbone.vit import VitSpec


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The networks of these tests are so small that several threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """Path of the backbone of the short trainings."""
    path = tmp_path_factory.mktemp("backbone") / "backbone.safetensors"
    spec = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2)
    export_backbone(random_backbone(spec).network, spec, path)
    return str(path)
