"""Behaviour shared by all locked backbones, and behaviour of the convolutional one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alan.backbone.base import frame_batch
from alan.backbone.checkpoint import export_backbone
from alan.backbone.conv import ConvBackbone, ConvNet, ConvSpec
from alan.backbone.load import load_backbone, random_backbone, random_like
from alan.backbone.normalise import normalise
from alan.backbone.vit import VitSpec
from alan.errors import CheckpointError, ParameterError
from alan.parcels.kmeans import fit_kmeans
from alan.parcels.model import load_parcels, save_parcels

VIT = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2, normalisation="sector")
CONV = ConvSpec(image_size=32, widths=(4, 6, 8))
SPECS = pytest.mark.parametrize("spec", [VIT, CONV], ids=["vit", "conv"])


@pytest.fixture(scope="module")
def frames():
    out = torch.randint(20, 255, (3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    out[0, :, 30:] = 0
    return out


@SPECS
def test_features_have_the_documented_shapes_and_types(spec, frames):
    backbone = random_backbone(spec)
    features, inside = backbone(frames), backbone.sector(frames)
    grid = backbone.grid
    assert features.tokens.shape == (3, grid, grid, backbone.dim)
    assert features.cls.shape == (3, backbone.dim)
    assert features.tokens.dtype == features.cls.dtype == torch.float32
    assert inside.shape == (3, grid, grid)
    assert inside.dtype == torch.bool
    assert inside[1].all()
    assert not inside[0, :, -1].any()
    assert backbone.device == torch.device("cpu")
    assert backbone.dim == spec.dim


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8, 3), (2, 1, 8, 8), (2, 8, 8)])
@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.int64])
def test_the_remedy_of_wrong_frames_works(make, shape, kind):
    given = make(np.ones(shape, kind))
    if (len(shape), kind) == (3, np.uint8):
        assert frame_batch(given).shape == shape
        return
    with pytest.raises(ParameterError, match=r"give uint8 \(B, H, W\), such as ") as caught:
        frame_batch(given)
    for remedy in str(caught.value).partition("such as ")[2].split(" and "):
        given = eval(remedy.partition(" for ")[0], {"frames": given, "np": np, "torch": torch})
    assert frame_batch(given).ndim == 3


@SPECS
def test_a_backbone_is_shown_in_a_line(spec):
    text = repr(random_backbone(spec))
    assert "\n" not in text
    assert f"{spec.image_size} px" in text
    assert f"tokens of width {spec.dim}" in text


@SPECS
def test_a_backbone_stays_in_eval_mode_without_gradients(spec, frames):
    backbone = random_backbone(spec)
    before = {name: x.clone() for name, x in backbone.state_dict().items()}
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not backbone(frames).tokens.requires_grad
    assert all(torch.equal(x, before[name]) for name, x in backbone.state_dict().items())


@SPECS
def test_features_do_not_depend_on_the_batch(spec, frames):
    backbone = random_backbone(spec)
    together = backbone(frames)
    for row in range(len(frames)):
        alone = backbone(frames[row : row + 1])
        torch.testing.assert_close(alone.tokens[0], together.tokens[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.cls[0], together.cls[row], rtol=1e-4, atol=1e-4)


@SPECS
def test_fingerprint_covers_weights_and_settings(spec):
    backbone = random_backbone(spec, 3)
    assert backbone.fingerprint == random_backbone(spec, 3).fingerprint
    others = [
        random_backbone(spec, 4),
        random_backbone(spec, 3, input_size=48),
        random_backbone(spec, 3, stride=1),
        random_backbone(replace(spec, normalisation="unit"), 3),
    ]
    assert len({backbone.fingerprint, *(other.fingerprint for other in others)}) == 5


@SPECS
def test_an_exported_backbone_loads_unchanged(spec, frames, tmp_path):
    path, backbone = tmp_path / "b.safetensors", random_backbone(spec, 1)
    export_backbone(spec.build_seeded(1), spec, path, {"licence": "none"})
    back = load_backbone(path)
    assert type(back) is type(backbone)
    assert back.spec == spec
    assert back.fingerprint == backbone.fingerprint
    torch.testing.assert_close(back(frames).tokens, backbone(frames).tokens, rtol=0, atol=0)
    assert load_backbone(path, input_size=48).grid > back.grid
    assert load_backbone(path, stride=1).grid > back.grid


@SPECS
def test_random_like_builds_the_same_network_untrained(spec, frames):
    backbone = random_backbone(spec, 1, input_size=48, stride=4)
    other = random_like(backbone, 2)
    assert type(other) is type(backbone)
    assert (other.spec, other.input_size, other.stride) == (spec, 48, 4)
    assert other.fingerprint == random_backbone(spec, 2, input_size=48, stride=4).fingerprint


@SPECS
def test_parcels_are_fitted_on_every_backbone(spec, frames, tmp_path):
    source, path = tmp_path / "b.safetensors", tmp_path / "p.safetensors"
    export_backbone(spec.build_seeded(1), spec, source)
    backbone = load_backbone(source)
    model = fit_kmeans(backbone, frames.numpy(), 4, sector_only=True, seed=0, source=str(source))
    maps = model.maps(frames)
    assert maps.shape == (3, 48, 48)
    assert set(np.unique(maps[0])) <= {0, 1, 2, 3, 4}
    save_parcels(model, path)
    assert load_parcels(path).fingerprint == model.fingerprint


@SPECS
def test_invalid_frames_and_sizes_are_refused(spec):
    backbone = random_backbone(spec)
    with pytest.raises(ParameterError, match="uint8"):
        backbone(torch.zeros(2, 32, 32))
    with pytest.raises(ParameterError, match=r"28 is not a multiple|30 is not a multiple"):
        random_backbone(spec, input_size=30)
    with pytest.raises(ParameterError, match="stride 3 does not divide"):
        random_backbone(spec, stride=3)


def test_conv_features_concatenate_the_chosen_levels(frames):
    spec = replace(CONV, feature_levels=(2, 0))
    network = spec.build_seeded(0).eval()
    backbone = random_backbone(spec, 0, input_size=48)
    images = normalise(frames[:, None].float() / 255, "sector", 1)
    with torch.no_grad():
        maps = network(images)
    assert [tuple(x.shape[1:]) for x in maps] == [(4, 48, 48), (6, 24, 24), (8, 12, 12)]
    tokens = backbone(frames).tokens
    assert tokens.shape == (3, 24, 24, 12)
    # shrinking by two with antialiasing: the weights of a triangle of width two, here away from the border
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    window = maps[0][1, :, 9:13, 19:23]  # the window of token (5, 10)
    torch.testing.assert_close(tokens[1, 5, 10, 8:], torch.einsum("cyx,y,x->c", window, row, row))
    deep = F.interpolate(maps[2], (24, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(tokens[..., :8], deep.permute(0, 2, 3, 1))


def test_conv_cls_equals_the_mean_inside_the_sector(frames):
    backbone = random_backbone(CONV)
    features, inside = backbone(frames), backbone.sector(frames)
    assert 0 < inside[0].sum() < inside[0].numel()
    for row in range(3):
        torch.testing.assert_close(features.cls[row], features.tokens[row][inside[row]].mean(0))
    black = torch.zeros(1, 32, 32, dtype=torch.uint8)
    features = backbone(black)
    torch.testing.assert_close(features.cls[0], features.tokens[0].flatten(0, 1).mean(0))


def test_conv_levels_change_dim_and_fingerprint():
    network = CONV.build_seeded(0)
    dims = {
        levels: replace(CONV, feature_levels=levels).lock(network) for levels in (None, (2,), (1, 2), (0, 1, 2))
    }
    assert [b.dim for b in dims.values()] == [14, 8, 14, 18]
    assert len({b.fingerprint for b in dims.values()}) == 4


def test_the_stem_halves_every_level(frames):
    spec = replace(CONV, stem_stride=2)
    with torch.no_grad():
        maps = spec.build_seeded(0).eval()(torch.zeros(1, 1, 32, 32))
    assert [tuple(x.shape[1:]) for x in maps] == [(4, 16, 16), (6, 8, 8), (8, 4, 4)]
    assert spec.levels == (2, 1, 0)
    assert (spec.dim, spec.multiple) == (18, 8)
    assert random_backbone(spec)(frames).tokens.shape == (3, 16, 16, 18)


def test_predictions_can_be_features(frames, tmp_path):
    spec = replace(CONV, structures=("lv", "la"), feature_levels=(2, 1, "targets"))
    plain, backbone = random_backbone(replace(spec, feature_levels=(2, 1))), random_backbone(spec)
    assert (backbone.dim, spec.n_outputs) == (plain.dim + 7, 7)
    alone = random_backbone(replace(spec, feature_levels=None))
    assert (alone.spec.levels, alone.dim) == (("targets",), 7)
    torch.testing.assert_close(alone(frames).tokens, backbone(frames).tokens[..., -7:])
    assert backbone.fingerprint != plain.fingerprint
    predictions = backbone.predictions(frames)
    assert predictions.shape == (3, 7, 32, 32)
    torch.testing.assert_close(predictions[:, :3].sum(1), torch.ones(3, 32, 32))
    tokens = backbone(frames).tokens
    torch.testing.assert_close(tokens[..., :-7], plain(frames).tokens)
    torch.testing.assert_close(tokens[..., -7:-4].sum(-1), torch.ones(3, 16, 16))
    export_backbone(spec.build_seeded(0), spec, tmp_path / "b.safetensors")
    assert load_backbone(tmp_path / "b.safetensors").fingerprint == backbone.fingerprint
    with pytest.raises(ParameterError, match="makes no predictions"):
        random_backbone(replace(CONV, feature_levels=("targets",)))
    with pytest.raises(ParameterError, match="makes no predictions"):
        random_backbone(CONV).predictions(frames)


def test_conv_networks_load_by_name(tmp_path, monkeypatch):
    backbone = load_backbone("random:conv_small?seed=2")
    assert backbone.grid == 56
    assert backbone.dim == 224
    assert load_backbone("random:conv_base").dim == 192 + 128 + 64 + 32
    assert backbone.fingerprint == random_backbone(ConvSpec(**ConvSpec.parse_name("conv_small")), 2).fingerprint
    export_backbone(CONV.build_seeded(0), CONV, tmp_path / "checkpoints" / "alan-sim-small.safetensors")
    monkeypatch.setattr("alan.shipped.ROOTS", (tmp_path / "none", tmp_path))
    assert isinstance(load_backbone("alan-sim-small"), ConvBackbone)


def test_files_of_another_kind_or_network_are_refused(tmp_path):
    path = tmp_path / "b.safetensors"
    export_backbone(ConvNet(CONV), replace(CONV, widths=(4, 6, 10)), path)
    with pytest.raises(CheckpointError, match="another architecture"):
        load_backbone(path)
    export_backbone(CONV.build_seeded(0), VIT, path)
    with pytest.raises(CheckpointError, match="is missing"):
        load_backbone(path)
    with pytest.raises(ParameterError, match="does not fit"):
        VIT.lock(CONV.build_seeded(0))
    with pytest.raises(ParameterError, match="does not fit"):
        CONV.lock(VIT.build_seeded(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (8,)}, "two or more"),
        ({"image_size": 30}, "not a multiple of the coarsest scale 4: use 28 or 32"),
        ({"in_chans": 2}, "choose one of: 1, 3"),
        ({"normalisation": "sektor"}, "did you mean 'sector'"),
        ({"feature_levels": (3,)}, "0 .*to 2"),
        ({"feature_levels": (1, 1)}, "each once"),
        ({"token_stride": 5}, "use one of"),
        ({"stem_stride": 3}, "choose one of: 1, 2"),
        ({"feature_levels": ("target",)}, "'targets'"),
    ],
)
def test_invalid_conv_specifications_are_refused(changes, message):
    with pytest.raises(ParameterError, match=message):
        replace(CONV, **changes)
    with pytest.raises(CheckpointError, match="did you mean 'conv_small'"):
        load_backbone("random:conv_smal")


def test_levels_can_be_chosen_when_a_backbone_is_loaded(tmp_path, frames):
    trained = replace(CONV, structures=("lv",))
    for name, spec in (("conv", trained), ("vit", VIT)):
        export_backbone(spec.build_seeded(0), spec, tmp_path / f"{name}.safetensors")
    own = load_backbone(tmp_path / "conv.safetensors")
    more = load_backbone(tmp_path / "conv.safetensors", feature_levels=(1, "targets"))
    assert own.fingerprint != more.fingerprint
    assert torch.equal(more(frames).tokens[..., CONV.widths[1] :], own(frames).tokens)
    with pytest.raises(ParameterError, match="has no feature_levels"):
        load_backbone(tmp_path / "vit.safetensors", feature_levels=(1,))
