"""Vision transformers of timm by name: features, weights from files, options and invalid input."""

import sys
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from alan.backbone.checkpoint import export_backbone
from alan.backbone.dino.module import DINOModule
from alan.backbone.load import load_backbone, random_backbone, random_like
from alan.backbone.timm_vit import TimmSpec
from alan.backbone.vit import VitBackbone
from alan.data.augmentation.multicrop import MultiCrop
from alan.errors import CheckpointError, ParameterError

TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2}
#: Name, patch size, tokens before the patches, and whether the first of them is a CLS token.
NETWORKS = {
    "vit_tiny_patch16_224": (16, 1, True),
    "vit_small_patch14_dinov2.lvd142m": (14, 1, True),  # LayerScale
    "vit_small_patch14_reg4_dinov2.lvd142m": (14, 5, True),  # registers without positions
    "vit_small_patch16_dinov3.lvd1689m": (16, 5, True),  # rotary positions and registers
    "vit_small_patch16_rope_mixed_224": (16, 1, True),  # rotary positions of every block
    "vit_base_patch16_clip_224.openai": (16, 1, True),  # a norm before the blocks, another mean
    "vit_base_patch16_siglip_224": (16, 0, False),
    "vit_medium_patch16_rope_reg1_gap_256": (16, 1, False),  # a register alone
}
ALL = pytest.mark.parametrize("name", NETWORKS)


def tiny(name, **changes):
    return TimmSpec(name, image_size=4 * NETWORKS[name][0], options=TINY, **changes)


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 256, (2, 60, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def timms(network, spec, frames, size):
    """CLS token (or None) and patch tokens as timm's contract gives them, pixels normalised as timm states."""
    facts = timm.get_pretrained_cfg(spec.name)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (facts.mean, facts.std))
    images = F.interpolate(frames[:, None].float() / 255, (size, size), mode="bilinear", antialias=True)
    images = (images.expand(-1, 3, -1, -1) - mean) / std
    with torch.no_grad():
        (grid,) = network.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        first = network.forward_features(images)[:, 0]
    return first if NETWORKS[spec.name][2] else None, grid.permute(0, 2, 3, 1)


@ALL
@pytest.mark.parametrize("patches", [4, 5])
def test_features_equal_timm_at_every_size(name, patches, frames):
    patch, prefix, _ = NETWORKS[name]
    spec = tiny(name)
    assert (spec.patch_size, spec.dim) == (patch, 32)
    network = spec.build_seeded(0)
    backbone = spec.lock(network, patches * patch)
    assert (backbone.grid, network.num_prefix_tokens) == (patches, prefix)
    features = backbone(frames)
    cls, grid = timms(network, spec, frames, patches * patch)
    torch.testing.assert_close(features.tokens, grid)
    torch.testing.assert_close(features.cls, grid.mean((1, 2)) if cls is None else cls)
    assert backbone.sector(frames).shape == (2, patches, patches)


@ALL
def test_exported_networks_load_unchanged(name, frames, tmp_path):
    spec = tiny(name, normalisation="sector")
    export_backbone(spec.build_seeded(0), spec, tmp_path / "b.safetensors")
    backbone = load_backbone(tmp_path / "b.safetensors")
    expected = random_backbone(spec, 0)
    assert backbone.spec == spec
    assert backbone.fingerprint == expected.fingerprint == random_like(backbone, 0).fingerprint
    assert torch.equal(backbone(frames).tokens, expected(frames).tokens)
    others = [random_backbone(spec, 1), random_backbone(replace(spec, normalisation="unit"), 0)]
    assert len({backbone.fingerprint, *(other.fingerprint for other in others)}) == 3


@ALL
def test_overlapping_patches_contain_the_base_grid_or_are_refused(name, frames):
    """Tokens at even positions equal those without overlap."""
    spec = tiny(name)
    network = spec.build_seeded(0)
    half = spec.patch_size // 2
    if getattr(network, "pos_embed", None) is None or not isinstance(network, timm.models.VisionTransformer):
        with pytest.raises(ParameterError, match="need a learned grid of positions"):
            spec.lock(network, stride=half)
        return
    dense = spec.lock(network, stride=half)
    assert dense(frames).tokens.shape == (2, 7, 7, 32)
    prefix = dense.positions.shape[1] - 49
    even = dense.positions[:, prefix:].reshape(1, 7, 7, -1)[:, ::2, ::2].flatten(1, 2)
    torch.testing.assert_close(even, network.pos_embed[:, prefix:])
    images = spec.normalise(dense._resize(frames))
    plain = spec.lock(network)
    dense.stride, dense.grid, dense.positions = spec.patch_size, 4, network.pos_embed.detach()
    for one, two in zip(dense._features(images, images), plain(frames), strict=True):
        torch.testing.assert_close(one, two)  # the path of overlapping patches, without overlap


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_named_network_loads_weights_from_a_file(suffix, frames, tmp_path, monkeypatch):
    """No hub is asked; the image size is that of the file's positions; the fingerprint is the network's."""
    spec = TimmSpec("vit_small_patch14_reg4_dinov2.lvd142m", image_size=42, options=TINY)
    network, path = spec.build_seeded(0), tmp_path / f"dinov2.{suffix}"
    if suffix == "pth":
        torch.save({"teacher": {f"backbone.{name}": x for name, x in network.state_dict().items()}}, path)
    else:
        save_file(network.state_dict(), path)
    loaded = load_backbone(spec.name, weights=path, options=TINY)
    assert loaded.spec == spec
    assert loaded.fingerprint == spec.lock(network).fingerprint
    by_text = load_backbone(f"{spec.name}?weights={path}&options={{depth: 2, embed_dim: 32, num_heads: 2}}")
    assert torch.equal(by_text(frames).tokens, spec.lock(network)(frames).tokens)
    small = load_backbone(spec.name, weights=path, options=TINY, input_size=28)
    cls, grid = timms(network, spec, frames, 28)
    torch.testing.assert_close(small(frames).tokens, grid)
    torch.testing.assert_close(small(frames).cls, cls)
    with pytest.raises(CheckpointError, match=r"'cls_token' has the shape \(1, 1, 32\)"):
        load_backbone(spec.name, weights=path)
    with pytest.raises(CheckpointError, match=r"'blocks\.2\.norm1\.weight' is missing"):
        load_backbone(spec.name, weights=path, options={**TINY, "depth": 3})
    with pytest.raises(CheckpointError, match=r"'pos_embed' has the shape.*; where the network is one of timm"):
        load_backbone(path, heads=2)


def test_original_dinov2_weights_are_loaded(frames, tmp_path):
    """timm renames registers, and positions have one entry for the CLS token alone."""
    spec = TimmSpec("vit_small_patch14_reg4_dinov2.lvd142m", image_size=28, options=TINY)
    network = spec.build_seeded(0)
    original = {name: x for name, x in network.state_dict().items() if name not in ("reg_token", "pos_embed")}
    original["register_tokens"] = network.reg_token.detach()
    original["mask_token"] = torch.zeros(1, 32)
    original["pos_embed"] = torch.cat([torch.zeros(1, 1, 32), network.pos_embed.detach()], 1)
    original["cls_token"] = network.cls_token.detach()
    torch.save(original, tmp_path / "dinov2.pth")
    loaded = load_backbone(spec.name, weights=tmp_path / "dinov2.pth", options=TINY)
    assert loaded.spec == spec
    assert torch.equal(loaded(frames).tokens, spec.lock(network)(frames).tokens)


def test_published_weights_come_from_the_hub_or_an_error_says_what_to_do(monkeypatch, frames):
    spec = tiny("vit_tiny_patch16_224")
    made, asked = spec.build_seeded(0), []
    create = timm.create_model

    def hub(name, pretrained=False, **options):
        if not pretrained:
            return create(name, **options)
        asked.append((name, options["img_size"]))
        return made

    monkeypatch.setattr(timm, "create_model", hub)
    loaded = load_backbone("vit_tiny_patch16_224", image_size=64, options=TINY)
    assert asked == [("vit_tiny_patch16_224", 64)]
    assert loaded.fingerprint == spec.lock(made).fingerprint
    assert TimmSpec("vit_small_patch14_dinov2").image_size == 518

    def unreachable(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host\nsecond line")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(CheckpointError, match="download the file once and give it as weights") as error:
        load_backbone("vit_small_patch8_224.dino")
    assert "\n" not in str(error.value)


def test_random_networks_load_by_name():
    text = "{depth: 2, embed_dim: 32, num_heads: 2}"
    backbone = load_backbone(f"random:vit_tiny_patch16_224?seed=3&image_size=64&options={text}")
    assert backbone.fingerprint == random_backbone(tiny("vit_tiny_patch16_224"), 3).fingerprint
    assert isinstance(backbone, VitBackbone)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_smal_patch14_dinov2", {}, "did you mean 'vit_small_patch14_dinov2'"),
        ("resnet18", {}, r"another architecture \(timm.models.resnet\)"),
        ("vit_small_r26_s32_224", {}, r"another architecture \(timm.models.vision_transformer_hybrid\)"),
        ("vit_tiny_patch16_224", {"deph": 2}, "timm refuses the options .*deph"),
        ("vit_tiny_patch16_224", {"num_heads": 5}, "timm refuses the options"),
    ],
)
def test_invalid_specifications_are_refused(name, options, message):
    with pytest.raises(ParameterError, match=message):
        TimmSpec(name, image_size=64, options=options)


def test_unsuitable_sizes_are_refused():
    with pytest.raises(ParameterError, match="image size 60 is not a multiple of the patch size 16: use 48 or 64"):
        TimmSpec("vit_tiny_patch16_224", image_size=60)
    with pytest.raises(ParameterError, match="use 28 or 42"):
        tiny("vit_small_patch14_dinov2.lvd142m").lock(tiny("vit_small_patch14_dinov2.lvd142m").build(), 30)


def test_dino_trains_a_timm_network(tmp_path):
    """After one forward pass, the exported network is the teacher."""
    spec = replace(tiny("vit_small_patch14_reg4_dinov2.lvd142m"), options={**TINY, "init_values": 0.1})
    crops = MultiCrop(global_size=56, local_size=28, n_local=1)
    settings = {"outputs": 8, "hidden": 8, "bottleneck": 4, "patch_weight": 1.0, "patch_prototypes": 4}
    model = DINOModule(network=spec, crops=crops, **settings)
    cls, tokens = model.student(torch.zeros(2, 3, 28, 28))
    assert (cls.shape, tokens.shape) == ((2, 32), (2, 4, 32))
    model.export(tmp_path / "b.safetensors")
    assert load_backbone(tmp_path / "b.safetensors").fingerprint == spec.lock(model.teacher.network).fingerprint


def test_timm_is_not_imported_for_convolutional_networks():
    import subprocess

    code = (
        "import sys; from alan.backbone import load_backbone; load_backbone('random:conv_small'); "
        "sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
