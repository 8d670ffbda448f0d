"""The parcel model: maps, sector, files and invalid input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alan.backbone.checkpoint import export_backbone
from alan.backbone.load import load_backbone, random_backbone
from alan.backbone.vit import VitSpec
from alan.errors import CheckpointError, ParameterError
from alan.parcels.heads import KMeansHead, RaptorHead
from alan.parcels.maps import logits_to_maps, pixel_sector
from alan.parcels.model import ParcelModel, load_parcels, save_parcels

SPEC = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model(seed=0, n_parcels=6, backbone_seed=0, **options):
    return ParcelModel(
        random_backbone(SPEC, backbone_seed), RaptorHead(16, n_parcels, generator=generator(seed)), **options
    )


def fan(n=3, size=32, seed=0):
    """Frames with a triangle of speckle, its apex at the top, black around and a black hole within."""
    row, column = np.mgrid[:size, :size]
    inside = np.abs(column - (size - 1) / 2) <= row / 2
    frames = np.random.default_rng(seed).integers(20, 255, (n, size, size)).astype(np.uint8)
    frames[:, ~inside] = 0
    frames[:, size // 2 : size // 2 + 4, size // 2 - 2 : size // 2 + 2] = 0
    return frames, inside


@pytest.mark.parametrize(
    ("n_parcels", "grid", "size"), [(64, 15, 112), (5, 7, (20, 33)), (112, 28, 28), (3, 9, 4)]
)
def test_maps_equal_interpolation_then_argmax(n_parcels, grid, size):
    logits = torch.randn(3, n_parcels, grid, grid, generator=generator())
    up = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    maps = logits_to_maps(logits, size)
    assert maps.dtype == torch.uint8
    top = up.topk(2, 1).values
    differ = maps.long() != up.argmax(1)
    assert (top[:, 0] - top[:, 1])[differ].lt(1e-5).all()  # nothing but ties of rounding may differ
    assert differ.float().mean() < 1e-3


def test_upsampling_comes_before_the_choice():
    logits = torch.tensor([[[[5.0, 0.0]], [[0.0, 1.0]]]])  # K 2, a grid of 1 x 2; tokens at pixels 1.5 and 5.5
    late = logits_to_maps(logits, (1, 8))[0, 0]
    early = logits.argmax(1)[0, 0].repeat_interleave(4)
    assert late.tolist() == [0] * 5 + [1] * 3  # equal at 5 (1 - t) = t, t = 5/6, pixel 4.83
    assert late.tolist() != early.tolist()


def test_ties_go_to_the_smallest_id():
    assert logits_to_maps(torch.zeros(1, 4, 2, 2), 6).eq(0).all()


def test_ids_that_are_needed_do_not_depend_on_the_others():
    logits = torch.randn(2, 7, 6, 6, generator=generator())
    needed = torch.zeros(2, 40, 50, dtype=torch.bool)
    needed[0, 3:11, 20:31], needed[1, 30, 4], needed[1, 31, 49] = True, True, True
    maps = logits_to_maps(logits, (40, 50), inside=needed)
    torch.testing.assert_close(maps[needed], logits_to_maps(logits, (40, 50))[needed], rtol=0, atol=0)


def test_logits_may_have_a_gradient():
    logits = torch.rand(1, 4, 2, 2)
    trained = logits.clone().requires_grad_()
    torch.testing.assert_close(logits_to_maps(trained, 6), logits_to_maps(logits, 6), rtol=0, atol=0)


def test_maps_equal_the_logits_at_any_batch_size():
    frames, _ = fan(5)
    parcels = model()
    maps = parcels.maps(frames)
    assert maps.shape == (5, 32, 32)
    assert maps.dtype == torch.uint8
    assert len(maps.unique()) > 1
    torch.testing.assert_close(maps, logits_to_maps(parcels.logits(torch.from_numpy(frames)), 32), rtol=0, atol=0)
    torch.testing.assert_close(maps, parcels.maps(frames, batch_size=2), rtol=0, atol=0)
    assert parcels.maps(frames, size=(10, 12)).shape == (5, 10, 12)
    assert parcels.maps(frames[:0]).shape == (0, 32, 32)


def test_pixels_outside_the_sector_are_background():
    frames, inside = fan()
    parcels, plain = model(sector_only=True), model()
    assert (parcels.background_id, parcels.n_ids) == (6, 7)
    assert (plain.background_id, plain.n_ids) == (None, 6)
    maps = parcels.maps(frames).numpy()
    np.testing.assert_array_equal(maps == 6, np.broadcast_to(~inside, maps.shape))
    np.testing.assert_array_equal(maps[:, inside], plain.maps(frames).numpy()[:, inside])
    half = pixel_sector(torch.from_numpy(frames), (16, 16)).numpy()
    share = inside.reshape(16, 2, 16, 2).mean((1, 3))
    np.testing.assert_array_equal(half, np.broadcast_to(share >= 0.5, half.shape))


def test_the_model_is_locked():
    parcels = model()
    parcels.train()
    assert not any(module.training for module in parcels.modules())
    assert not any(parameter.requires_grad for parameter in parcels.parameters())


def test_the_fingerprint_covers_backbone_head_and_sector():
    prints = {
        model().fingerprint,
        model(seed=1).fingerprint,
        model(backbone_seed=1).fingerprint,
        model(sector_only=True).fingerprint,
    }
    assert len(prints) == 4
    assert model().fingerprint == model().fingerprint


def test_a_model_survives_saving(tmp_path):
    frames, _ = fan()
    head = KMeansHead(16, 6, 3)
    head.centres.normal_(generator=generator())
    head.projection.normal_(generator=generator(1))
    for number, before in enumerate(
        (model(sector_only=True), ParcelModel(random_backbone(SPEC), head, source="somewhere"))
    ):
        path = tmp_path / f"{number}.safetensors"
        save_parcels(before, path)
        after = load_parcels(path, random_backbone(SPEC))
        assert after.fingerprint == before.fingerprint
        assert after.sector_only == before.sector_only
        torch.testing.assert_close(after.maps(frames), before.maps(frames), rtol=0, atol=0)


def test_the_backbone_is_found_beside_the_file(tmp_path, monkeypatch):
    backbone = random_backbone(SPEC, input_size=40, stride=4)
    source = tmp_path / "one" / "backbone" / "backbone.safetensors"
    export_backbone(backbone.network, SPEC, source)
    before = ParcelModel(backbone, RaptorHead(16, 4, generator=generator()), source=str(source))
    save_parcels(before, tmp_path / "one" / "parcels" / "parcels.safetensors")
    (tmp_path / "one").rename(tmp_path / "moved")
    after = load_parcels(tmp_path / "moved" / "parcels" / "parcels.safetensors")
    assert after.fingerprint == before.fingerprint
    (tmp_path / "moved" / "backbone" / "backbone.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"parcels.safetensors: its backbone .*give load_parcels the backbone"
    ):
        load_parcels(tmp_path / "moved" / "parcels" / "parcels.safetensors")


def test_the_levels_of_the_backbone_are_found_again(tmp_path):
    backbone = load_backbone("random:conv_small", feature_levels=[3, 2])
    export_backbone(backbone.network, replace(backbone.spec, feature_levels=None), tmp_path / "b.safetensors")
    backbone = load_backbone(tmp_path / "b.safetensors", feature_levels=[3, 2])
    before = ParcelModel(backbone, KMeansHead(backbone.dim, 4), source=str(tmp_path / "b.safetensors"))
    save_parcels(before, tmp_path / "p.safetensors")
    assert load_parcels(tmp_path / "p.safetensors").fingerprint == before.fingerprint


def test_another_backbone_is_refused_with_both_fingerprints(tmp_path):
    path = tmp_path / "parcels.safetensors"
    save_parcels(model(), path)
    for other in (random_backbone(SPEC, 1), random_backbone(SPEC, stride=4)):
        with pytest.raises(CheckpointError) as caught:
            load_parcels(path, other)
        assert other.fingerprint[:12] in str(caught.value)
        assert model().backbone.fingerprint[:12] in str(caught.value)
    with pytest.raises(CheckpointError, match="does not record its backbone"):
        load_parcels(path)


def test_files_that_are_not_a_parcel_model_are_refused(tmp_path):
    backbone = random_backbone(SPEC)
    path = tmp_path / "parcels.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        load_parcels(path)
    save_parcels(model(), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="truncated"):
        load_parcels(path, backbone)
    export_backbone(backbone.network, SPEC, path)
    with pytest.raises(CheckpointError, match="not a parcel model"):
        load_parcels(path, backbone)
    checkpoint = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, checkpoint)
    with pytest.raises(CheckpointError, match="not a parcel model"):
        load_parcels(checkpoint, backbone)
    torch.save({"state_dict": {}, "code": print}, checkpoint)
    with pytest.raises(CheckpointError, match="plain tensors"):
        load_parcels(checkpoint, backbone)


def test_a_model_is_shown_in_a_line():
    assert repr(model(n_parcels=6)).startswith("ParcelModel(6 parcels, VitBackbone(")
    assert "\n" not in repr(model())


def test_wrong_shapes_are_refused():
    with pytest.raises(ParameterError, match="width 17, the backbone gives 16"):
        ParcelModel(random_backbone(SPEC), RaptorHead(17, 4))
    with pytest.raises(ParameterError, match=r"give uint8 \(B, H, W\)"):
        model().maps(np.zeros((32, 32), np.uint8))
    with pytest.raises(ParameterError, match=r"give \(B, K, h, w\)"):
        logits_to_maps(torch.zeros(4, 2, 2), 8)
    with pytest.raises(ParameterError, match="size is 0"):
        logits_to_maps(torch.zeros(1, 4, 2, 2), 0)
