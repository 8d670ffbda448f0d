"""Loading backbones: every source gives the same features, and every invalid file one line with the difference."""

import argparse
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from alan.backbone.base import check_multiple
from alan.backbone.checkpoint import export_backbone
from alan.backbone.load import load_backbone, random_backbone, random_like
from alan.backbone.normalise import normalise
from alan.backbone.vit import VitBackbone, VitSpec
from alan.data.sector import sector_mask
from alan.errors import AlanWarning, CheckpointError, ParameterError

SPEC = VitSpec(image_size=32, patch_size=8, in_chans=3, dim=64, depth=2, heads=1)


@pytest.fixture
def frames():
    return torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def vit():
    return SPEC.build_seeded(3).eval()


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_features_equal_timm(vit, frames):
    images = normalise(frames[:, None].float() / 255, "imagenet", 3)
    with torch.no_grad():
        expected = vit.forward_features(images)
    features = VitBackbone(vit, SPEC)(frames)
    assert features.cls.shape == (3, 64)
    assert features.tokens.shape == (3, 4, 4, 64)
    assert features.cls.dtype == features.tokens.dtype == torch.float32
    torch.testing.assert_close(features.cls, expected[:, 0])
    torch.testing.assert_close(features.tokens.flatten(1, 2), expected[:, 1:])


def test_another_input_size_equals_the_dynamic_size_of_timm(vit, frames):
    small = VitBackbone(vit, SPEC, input_size=24)
    images = F.interpolate(frames[:, None].float() / 255, (24, 24), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = vit.forward_features(normalise(images, "imagenet", 3))
    torch.testing.assert_close(small(frames).tokens.flatten(1, 2), expected[:, 1:])


def test_half_stride_contains_the_base_grid(vit, frames):
    base, dense = VitBackbone(vit, SPEC), VitBackbone(vit, SPEC, stride=4)
    assert dense.grid == 7
    even = dense.positions[:, 1:].reshape(1, 7, 7, -1)[:, ::2, ::2].flatten(1, 2)
    torch.testing.assert_close(even, vit.pos_embed[:, 1:])
    tokens, few = dense(frames).tokens[:, ::2, ::2], base(frames).tokens
    same = F.cosine_similarity(tokens, few, dim=-1).mean()
    other = F.cosine_similarity(tokens.flip(0).flip(1), few, dim=-1).mean()
    assert same > 0.95
    assert same > other


def test_a_backbone_is_locked(vit, frames):
    backbone = VitBackbone(vit, SPEC)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    outer = torch.nn.Sequential(backbone).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    head = torch.nn.Linear(64, 2)
    head(outer(frames).tokens).sum().backward()  # features are plain tensors that a head can train on
    assert head.weight.grad is not None
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_fingerprint_depends_on_weights_and_settings(vit):
    backbone = VitBackbone(vit, SPEC)
    assert backbone.fingerprint == VitBackbone(SPEC.build_seeded(3), SPEC).fingerprint
    others = [
        VitBackbone(SPEC.build_seeded(4), SPEC),
        VitBackbone(vit, SPEC, input_size=24),
        VitBackbone(vit, SPEC, stride=4),
        VitBackbone(vit, replace(SPEC, normalisation="sector")),
    ]
    assert len({backbone.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_a_random_backbone_depends_on_its_seed_only(frames):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = random_backbone(SPEC, 1, stride=4)
    assert torch.equal(state, torch.get_rng_state())
    again, other = random_like(first, 1), random_like(first, 2)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert again.stride == 4
    by_name = load_backbone("random:vit_demo/8?seed=1", input_size=32)
    assert (
        by_name.fingerprint
        == random_backbone(VitSpec(**VitSpec.parse_name("vit_demo/8")), 1, input_size=32).fingerprint
    )
    assert by_name(frames).tokens.shape == (3, 4, 4, 128)


def dino_state(vit):
    state = dict(vit.state_dict())
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight"} <= set(state)
    return state


def sources(vit, folder):
    state = dino_state(vit)
    torch.save(state, folder / "plain.pth")
    prefixed = {f"module.backbone.{name}": x for name, x in state.items()} | {
        "module.head.mlp.0.bias": torch.zeros(2)
    }
    student = {name: x + 1 for name, x in prefixed.items()}
    args = argparse.Namespace(arch="vit_small", output_dir=Path(), device=torch.device("cuda:0"))
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": np.float64(1e-4)}]}
    full = {"student": student, "teacher": prefixed, "optimizer": optimizer, "epoch": np.int64(3), "args": args}
    torch.save(full, folder / "full.pth")
    lightning = {f"teacher.network.{name}": x for name, x in state.items()}
    lightning |= {f"student.network.{name}": x + 1 for name, x in state.items()}
    torch.save(
        {"state_dict": lightning, "alan": {**SPEC.entry(), "prefix": "teacher.network."}}, folder / "last.ckpt"
    )
    export_backbone(vit, SPEC, folder / "exported.safetensors", {"data": "none"})
    return ["plain.pth", "full.pth", "last.ckpt", "exported.safetensors"]


def test_every_file_gives_the_same_backbone(vit, frames, tmp_path):
    expected = VitBackbone(vit, SPEC)
    for name in sources(vit, tmp_path):
        loaded = load_backbone(tmp_path / name, heads=1)
        assert loaded.fingerprint == expected.fingerprint, name
        assert torch.equal(loaded(frames).tokens, expected(frames).tokens), name
        assert load_backbone(tmp_path / name, stride=4, input_size=24, heads=1).grid == 5


def test_safetensors_are_recognised_whatever_their_suffix(vit, tmp_path):
    export_backbone(vit, SPEC, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    assert load_backbone(tmp_path / "a.pth").fingerprint == VitBackbone(vit, SPEC).fingerprint


def test_exported_and_shipped_backbones_load_by_name(vit, tmp_path, monkeypatch):
    spec = replace(SPEC, normalisation="sector", heads=4)
    export_backbone(vit, spec, tmp_path / "checkpoints" / "little.safetensors")
    monkeypatch.setattr("alan.shipped.ROOTS", (tmp_path,))
    assert load_backbone("little").spec == spec


def test_broken_files_are_refused(vit, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"cls_token": Evil()}, protocol=2))
    torch.save({"cls_token": Evil()}, tmp_path / "evil2.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (tmp_path / "page.pth").write_text("\n<!DOCTYPE html><html>Sign in</html>")
    torch.save({"epoch": 3}, tmp_path / "number.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in sources(vit, tmp_path):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(whole[: len(whole) // 2])
    cases = {
        "absent.pth": "no such file",
        "evil.pth": "plain tensors",
        "evil2.pth": "plain tensors",
        "text.pth": "not a checkpoint",
        "empty.pth": "is empty",
        "pointer.pth": "run `git lfs pull`",
        "page.pth": "is a web page",
        "number.pth": "no tensor",
        "list.pth": "dictionary",
        "cut_plain.pth": "truncated",
        "cut_full.pth": "truncated",
        "cut_last.ckpt": "truncated",
        "cut_exported.safetensors": "truncated",
    }
    for name, words in cases.items():
        with pytest.raises(CheckpointError, match=words) as error:
            load_backbone(tmp_path / name)
        assert name in one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x.fill_(float("nan")),
            "'cls_token' holds values that are not finite; train or export it again",
        ),
        (lambda x: x.fill_(float("-inf")), "'cls_token' holds values that are not finite"),
        (lambda x: x.to(torch.int8), "'cls_token' holds torch.int8, the network torch.float32"),
        (lambda x: x.to(torch.complex64), "'cls_token' holds torch.complex64, the network torch.float32"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.filterwarnings("ignore:.*heads:alan.errors.AlanWarning")
def test_weights_that_are_not_finite_are_refused(vit, tmp_path, change, message, suffix):
    path = tmp_path / f"a{suffix}"
    tensors = {name: value.clone() for name, value in vit.state_dict().items()}
    tensors["cls_token"] = change(tensors["cls_token"])
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_backbone(path)
    one_line(error)


@pytest.mark.parametrize("claim", [{"depth": 10**9}, {"dim": 64 * 10**6}])
def test_a_specification_of_huge_size_is_refused_before_anything_is_allocated(vit, tmp_path, claim):
    export_backbone(vit, SPEC, tmp_path / "a.safetensors")
    path = tmp_path / "b.safetensors"
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        entry = json.loads(file.metadata()["alan"])
    entry["spec"] |= claim
    save_file(load_file(tmp_path / "a.safetensors"), path, {"alan": json.dumps(entry)})
    with pytest.raises(CheckpointError, match=r"from 1 to 1000|values for a network of") as error:
        load_backbone(path)
    one_line(error)


def test_another_architecture_is_refused_with_the_difference(vit, tmp_path):
    state = dino_state(vit)
    cases = {
        "'conv1.weight' is not part of any known backbone": {"conv1.weight": torch.zeros(4, 3, 7, 7)},
        "'cls_token' is missing": {k: x for k, x in state.items() if k != "cls_token"},
        "'norm.bias' is missing": {k: x for k, x in state.items() if k != "norm.bias"},
        "'reg_token' is not part of a VitSpec.*give its name and this file: NAME.weights=FILE": state
        | {"reg_token": torch.zeros(1, 4, 64)},
        r"'blocks.1.norm1.weight' has the shape \(3,\)": state | {"blocks.1.norm1.weight": torch.zeros(3)},
        "in_chans is 2": state | {"patch_embed.proj.weight": torch.zeros(64, 2, 8, 8)},
    }
    for words, tensors in cases.items():
        torch.save(tensors, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=words) as error:
            load_backbone(tmp_path / "other.pth", heads=1)
        one_line(error)
    torch.save({"state_dict": {"net.weight": torch.zeros(2)}, "alan": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="without a backbone"):
        load_backbone(tmp_path / "other.ckpt")
    export_backbone(vit, SPEC, tmp_path / "new.safetensors")
    tensors = load_file(tmp_path / "new.safetensors")
    entry = {"schema": "alan-backbone/1", "kind": "mamba", "spec": {}}
    save_file(tensors, tmp_path / "new.safetensors", metadata={"alan": json.dumps(entry)})
    with pytest.raises(CheckpointError, match=r"unknown kind of network 'mamba'.*choose one of: conv, timm, vit"):
        load_backbone(tmp_path / "new.safetensors")


def test_the_number_of_heads_is_guessed_with_a_warning(tmp_path, frames):
    """Two heads are assumed for 128 channels; four give other features, so a warning names the guess."""
    spec = VitSpec(image_size=32, patch_size=8, dim=128, depth=1, heads=4)
    network, path = spec.build_seeded(0), tmp_path / "plain.pth"
    torch.save(network.state_dict(), path)
    with pytest.warns(AlanWarning, match="2 are assumed, one per 64 channels. Give heads=2"):
        guessed = load_backbone(path)
    assert guessed.spec.heads == 2
    right = load_backbone(path, heads=4)
    assert right.fingerprint == load_backbone(f"{path}?heads=4").fingerprint == spec.lock(network).fingerprint
    assert torch.equal(right(frames).tokens, spec.lock(network)(frames).tokens)
    assert not torch.allclose(right(frames).tokens, guessed(frames).tokens, atol=1e-3)
    torch.save(VitSpec(image_size=32, patch_size=8, dim=48, depth=1, heads=4).build().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"does not say how many attention heads.* width 48 has: give heads"):
        load_backbone(path)
    assert load_backbone(path, heads=4).spec.heads == 4


def test_the_teacher_is_loaded_unless_another_key_is_given(vit, tmp_path, frames):
    """The layouts of DINOv2, lightly, timm, MAE, MoCo v3 and a student alone."""
    own, other = vit.state_dict(), SPEC.build_seeded(9).state_dict()

    def named(prefix, tensors):
        return {prefix + name: x for name, x in tensors.items()}

    files = {
        "dinov2.pth": {
            "model": named("student.backbone.", other) | named("teacher.backbone.", own),
            "iteration": 5,
        },
        "lightly.ckpt": {"state_dict": named("student_backbone.", other) | named("teacher_backbone.", own)},
        "student.pth": {"student": named("module.backbone.", own)},
        "timm.pth": {"state_dict": other, "state_dict_ema": own, "arch": "vit"},
        "mae.pth": {
            "model": {**own, "mask_token": torch.zeros(1, 1, 3), "decoder_embed.weight": torch.zeros(2, 3)}
        },
        "half.pth": {name: x.half() for name, x in own.items()},
    }
    expected = VitBackbone(vit, SPEC)(frames).tokens
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        tokens = load_backbone(tmp_path / name, heads=1)(frames).tokens
        torch.testing.assert_close(tokens, expected, atol=2e-2 if name == "half.pth" else 0, rtol=0)
    moco = {"state_dict": named("module.base_encoder.", own) | named("module.momentum_encoder.", other)}
    torch.save(moco, tmp_path / "moco.pth.tar")
    with pytest.warns(AlanWarning, match="holds several networks.*'module.base_encoder.' is read"):
        base = load_backbone(tmp_path / "moco.pth.tar", heads=1)
    momentum = load_backbone(tmp_path / "moco.pth.tar", heads=1, prefix="module.momentum_encoder.")
    assert torch.equal(base(frames).tokens, expected)
    assert momentum.fingerprint == VitBackbone(SPEC.build_seeded(9), SPEC).fingerprint
    with pytest.raises(CheckpointError, match=r"no tensor begins with 'encoder.'"):
        load_backbone(tmp_path / "moco.pth.tar", prefix="encoder.")


def test_settings_override_those_of_a_file(vit, tmp_path):
    export_backbone(vit, SPEC, tmp_path / "b.safetensors")
    changed = load_backbone(tmp_path / "b.safetensors", normalisation="unit", heads=None)
    assert changed.spec == replace(SPEC, normalisation="unit")
    with pytest.raises(ParameterError, match="a VitSpec has no head: did you mean 'heads'"):
        load_backbone(tmp_path / "b.safetensors", head=2)
    with pytest.raises(ParameterError, match=r"'heads' is not an option: give NAME.key=value"):
        load_backbone(f"{tmp_path}/b.safetensors?heads")
    with pytest.raises(ParameterError, match="is a file itself"):
        load_backbone(tmp_path / "b.safetensors", weights=tmp_path / "b.safetensors")
    (tmp_path / "odd?name.safetensors").write_bytes((tmp_path / "b.safetensors").read_bytes())
    assert load_backbone(tmp_path / "odd?name.safetensors").spec == SPEC


def test_unknown_names_offer_the_nearest():
    with pytest.raises(CheckpointError, match=r"did you mean 'vit_small_patch8_224.dino'"):
        load_backbone("vit_smal_patch8_224.dinoo")
    with pytest.raises(ParameterError, match=r"resnet18: another architecture \(timm.models.resnet\)"):
        load_backbone("resnet18")
    with pytest.raises(ParameterError, match="a VitSpec has no sead: did you mean 'seed'"):
        load_backbone("random:vit_demo/8?sead=1")
    with pytest.raises(ParameterError, match="seed is -1"):
        load_backbone("random:vit_demo/8?seed=-1")
    with pytest.raises(CheckpointError, match="did you mean 'vit_demo/8'"):
        load_backbone("random:vit_dem/8")
    with pytest.raises(CheckpointError, match="vit_demo/8: has no published weights"):
        load_backbone("vit_demo/8")


def test_a_preset_loads_weights_from_a_file(tmp_path, frames):
    spec = VitSpec(image_size=32, **VitSpec.parse_name("vit_demo/8"))
    torch.save(spec.build_seeded(1).state_dict(), tmp_path / "plain.pth")
    loaded = load_backbone("vit_demo/8", weights=tmp_path / "plain.pth")  # the name says how many heads
    assert loaded.fingerprint == random_backbone(spec, 1).fingerprint


def test_unsuitable_sizes_are_refused(vit):
    with pytest.raises(ParameterError, match="use 24 or 32"):
        VitBackbone(vit, SPEC, input_size=30)
    with pytest.raises(ParameterError, match="use 8"):
        check_multiple(5, 8)
    with pytest.raises(ParameterError, match=r"\[1, 2, 4, 8\]"):
        VitBackbone(vit, SPEC, stride=3)
    with pytest.raises(ParameterError, match="uint8"):
        VitBackbone(vit, SPEC)(torch.zeros(2, 32, 32))


@pytest.mark.parametrize(
    "changes", [{"heads": 5}, {"in_chans": 2}, {"depth": 0}, {"normalisation": "zscore"}, {"initialisation": "he"}]
)
def test_invalid_specifications_are_refused(changes):
    with pytest.raises(ParameterError):
        replace(SPEC, **changes)


def test_initialisation_and_channels_can_be_chosen():
    spec = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=64, depth=1, heads=4, initialisation="xavier")
    vit = spec.build_seeded(0)
    assert vit.patch_embed.proj.weight.shape == (64, 1, 8, 8)
    bound = (6 / (64 + 256)) ** 0.5
    weight = vit.blocks[0].mlp.fc1.weight
    assert bound * 0.99 < weight.abs().max() <= bound
    assert vit.pos_embed[:, 1:].abs().max().item() == pytest.approx(0.5)
    assert VitBackbone(vit, spec)(torch.zeros(2, 16, 16, dtype=torch.uint8)).tokens.shape == (2, 4, 4, 64)


def test_normalisations_match_hand_computed_values():
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1:3, 1:3] = torch.tensor([[0.2, 0.4], [0.6, 0.8]])
    unit = normalise(image, "unit", 3)
    assert unit.shape == (1, 3, 4, 4)
    assert torch.equal(unit[:, 2:], image)
    colour = normalise(image, "imagenet", 3)
    assert colour[0, 1, 1, 1] == pytest.approx((0.2 - 0.456) / 0.224)
    assert normalise(image, "imagenet", 1)[0, 0, 1, 1] == pytest.approx((0.2 - 0.449) / (0.678 / 3), rel=1e-5)
    sector = normalise(image, "sector", 1)
    assert sector[0, 0, 1, 1] == pytest.approx((0.2 - 0.5) / (0.05**0.5 + 0.02))
    assert sector[0, 0, 0, 0] == -2
    assert torch.isfinite(normalise(torch.zeros(1, 1, 4, 4), "sector", 1)).all()
    with pytest.raises(ParameterError, match="kind is 'sectr': did you mean 'sector'"):
        normalise(image, "sectr", 1)


def test_sector_includes_black_blood_but_not_black_corners():
    image = torch.zeros(1, 5, 5)
    image[0, 0, 2] = image[0, 2, 1] = image[0, 2, 3] = image[0, 4, 2] = 1.0
    expected = image[0] > 0
    expected[2, 2] = True  # dark, but lit on all four sides
    assert torch.equal(sector_mask(image)[0], expected)
    assert not sector_mask(torch.zeros(2, 5, 5)).any()


def test_tokens_inside_the_sector_are_marked(vit):
    frames = torch.zeros(1, 32, 32, dtype=torch.uint8)
    frames[:, :16, :16] = 90
    frames[:, 0:8, 16:18] = 90  # a quarter of a patch: too little
    tokens = VitBackbone(vit, SPEC).sector(frames)
    expected = torch.zeros(1, 4, 4, dtype=torch.bool)
    expected[:, :2, :2] = True
    assert torch.equal(tokens, expected)
    assert VitBackbone(vit, SPEC, stride=4).sector(frames).shape == (1, 7, 7)
    assert json.dumps(SPEC.to_dict())


def test_numpy_frames_are_accepted(vit, frames):
    backbone = VitBackbone(vit, SPEC)
    assert torch.equal(backbone(frames.numpy()).tokens, backbone(frames).tokens)
    assert torch.equal(backbone.sector(frames.numpy()), backbone.sector(frames))


def test_loading_does_not_touch_the_global_generator(vit, tmp_path):
    export_backbone(vit, SPEC, tmp_path / "b.safetensors")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_backbone(tmp_path / "b.safetensors")
    assert torch.equal(torch.rand(3), expected)


def test_a_random_network_has_the_requested_levels():
    assert load_backbone("random:conv_small", feature_levels=[3]).dim == 128
    with pytest.raises(ParameterError, match="has no feature_levels"):
        load_backbone("random:vit_small/4", feature_levels=[3])
