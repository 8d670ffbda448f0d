"""A backbone for short trainings."""

import pytest

from alan.backbone.checkpoint import export_backbone
from alan.backbone.load import random_backbone
from alan.backbone.vit import VitSpec


@pytest.fixture(scope="module", autouse=True)
def threads(one_thread):
    """Every test of this folder runs on one thread."""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """Path of the backbone of the short trainings."""
    path = tmp_path_factory.mktemp("backbone") / "backbone.safetensors"
    spec = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2)
    export_backbone(random_backbone(spec).network, spec, path)
    return str(path)
