"""Averages of the weights of networks."""

import pytest
import torch

from alan.backbone import ConvSpec, average_backbones, export_backbone, load_backbone, random_backbone
from alan.errors import CheckpointError, ParameterError

SPEC = ConvSpec(image_size=32, widths=(4, 8))


@pytest.fixture
def files(tmp_path):
    """Three networks of one architecture."""
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    for seed, path in enumerate(paths):
        export_backbone(random_backbone(SPEC, seed).network, SPEC, path)
    return paths


def test_average_is_the_mean_of_every_weight(files, tmp_path):
    out = tmp_path / "mean.safetensors"
    returned = average_backbones(files, out).network.state_dict()
    states = [load_backbone(path).network.state_dict() for path in files]
    written = load_backbone(out).network.state_dict()
    for name, tensor in written.items():
        assert torch.equal(tensor, returned[name])
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, sum(state[name] for state in states) / 3)
        else:
            assert torch.equal(tensor, states[0][name])
    assert any(not torch.equal(written[name], states[0][name]) for name in written)


def test_copies_of_one_network_average_to_it(files, tmp_path):
    average = average_backbones([files[1]] * 3, tmp_path / "mean.safetensors").network.state_dict()
    for name, tensor in load_backbone(files[1]).network.state_dict().items():
        assert torch.equal(average[name], tensor)


def test_other_architectures_are_refused(files, tmp_path):
    other = ConvSpec(image_size=32, widths=(4, 16))
    export_backbone(random_backbone(other, 0).network, other, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="widths"):
        average_backbones([files[0], tmp_path / "other.safetensors"], tmp_path / "mean.safetensors")
    assert not (tmp_path / "mean.safetensors").exists()


def test_averaging_one_network_is_refused(files, tmp_path):
    with pytest.raises(ParameterError, match="sources holds 1: give at least 2"):
        average_backbones(files[:1], tmp_path / "mean.safetensors")
