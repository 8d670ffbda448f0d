"""Soft parcels as ensemble members, and files of members and ensembles."""

import json
import math

import numpy as np
import pytest
import torch

from alan.backbone.load import random_backbone
from alan.backbone.vit import VitSpec
from alan.downstream.members import load_ensemble, load_member, load_network, save_ensemble
from alan.downstream.soft_parcels import ParcelMember, gaussian_temperature, load_parcel_member, save_parcel_member
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.errors import CheckpointError, DataError, ParameterError
from alan.parcels.heads import RaptorHead
from alan.parcels.kmeans import fit_kmeans
from alan.parcels.model import ParcelModel, load_parcels
from alan.supervised.ensemble import EnsembleSegmenter, Member
from alan.supervised.segmenter import save_segmenter
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

SPEC = VitSpec(image_size=16, patch_size=4, in_chans=1, dim=8, depth=1, heads=2, normalisation="unit")
SMALL = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))


def model(sector_only=False, k=5):
    head = RaptorHead(8, k, generator=torch.Generator().manual_seed(0))
    return ParcelModel(random_backbone(SPEC), head, sector_only=sector_only)


@pytest.fixture
def frames():
    return torch.randint(1, 255, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_probabilities_match_hand_computed_values(frames):
    parcels = model()
    member = ParcelMember(parcels, {"lv": [0, 3], "la": [1]}, temperature=0.5)
    assert isinstance(member, Member)
    assert (member.structures, member.classes) == (("lv", "la"), 3)
    up = torch.nn.functional.interpolate(parcels.logits(frames), (16, 16), mode="bilinear", align_corners=False)
    exp = torch.exp(up / 0.5)
    soft = exp / exp.sum(1, keepdim=True)
    lv, la = soft[:, 0] + soft[:, 3], soft[:, 1]
    torch.testing.assert_close(member.probabilities(frames), torch.stack([1 - lv - la, lv, la], 1))
    one = ParcelMember(parcels, {"lv": [0, 3]}, temperature=0.5)
    torch.testing.assert_close(one.probabilities(frames), lv[:, None])


def test_probabilities_of_shared_parcels_are_normalised(frames):
    member = ParcelMember(model(), {"lv": [0, 1, 2, 3], "la": [0, 1, 4]})
    p = member.probabilities(frames)
    torch.testing.assert_close(p.sum(1), torch.ones(3, 16, 16))
    assert (p >= 0).all()
    hard = ParcelMember(model(), {"lv": [0], "la": [1]}, temperature=1e-4).probabilities(frames)
    warm = ParcelMember(model(), {"lv": [0], "la": [1]}, temperature=1e4).probabilities(frames)
    assert ((hard - hard.round()).abs() < 0.05).float().mean() > 0.9
    torch.testing.assert_close(warm[:, 1:], torch.full_like(warm[:, 1:], 0.2), atol=1e-3, rtol=0)


def test_pixels_outside_the_sector_are_background():
    frames = torch.zeros(1, 16, 16, dtype=torch.uint8)
    frames[:, 4:12, 4:12] = 100
    p = ParcelMember(model(sector_only=True), {"lv": [0], "la": [1, 2, 3, 4]}).probabilities(frames)
    assert (p[0, 0, :4] == 1).all()
    assert (p[0, 0, 5:11, 5:11] < 1e-5).all()  # every parcel is in a structure
    torch.testing.assert_close(p.sum(1), torch.ones(1, 16, 16))


def test_members_are_built_from_white_boxes(frames):
    parcels = model()
    maps = parcels.maps(frames).numpy()
    favourite = int(np.bincount(maps.ravel()).argmax())
    masks = maps == favourite
    selector = ParcelSelector(rule="greedy", n_parcels=5, provenance=parcels.fingerprint).fit(maps, masks)
    member = ParcelMember.from_white_boxes(parcels, {"lv": selector})
    assert member.parcels == {"lv": [favourite]}
    segmenter = ParcelSegmenter(selector=ParcelSelector(rule="greedy", n_parcels=5)).fit(maps, masks)
    assert ParcelMember.from_white_boxes(parcels, {"lv": segmenter}).fingerprint == member.fingerprint
    with pytest.raises(CheckpointError, match="fitted on parcels"):
        ParcelMember.from_white_boxes(model(sector_only=True), {"lv": selector})


def test_gaussian_temperature_matches_hand_computed_values(frames):
    fitted = fit_kmeans(random_backbone(SPEC), frames.numpy(), 4)
    distance = -fitted.logits(frames).max(1).values
    assert gaussian_temperature(fitted, frames) == pytest.approx(2 * float(distance.mean()) / 8)
    with pytest.raises(ParameterError, match="is not k-means"):
        gaussian_temperature(model(), frames)


@pytest.mark.parametrize(
    ("parcels", "temperature", "message"),
    [
        ({}, 1, "no structure"),
        ({"lv": []}, 1, "'lv' is empty"),
        ({"lv": [5]}, 1, "contains 5: give ids of 0 to 4"),
        ({"lv": [0]}, 0, "temperature is 0"),
    ],
)
def test_invalid_members_are_refused(parcels, temperature, message):
    with pytest.raises(ParameterError, match=message):
        ParcelMember(model(), parcels, temperature)


def test_members_and_ensembles_survive_saving(tiny, tmp_path):
    member = ParcelMember(load_parcels(tiny.parcels()), {"lv": [0, 2], "la": [5]}, 2.0)
    path = tmp_path / "parcels" / "lv-la.json"
    save_parcel_member(member, path, tiny.parcels())
    again = load_parcel_member(path)
    assert (again.fingerprint, again.parcels, again.temperature) == (member.fingerprint, member.parcels, 2.0)
    network = untrained_segmenter(SMALL, ["lv", "la"])
    save_segmenter(network, tmp_path / "n.safetensors")
    one = EnsembleSegmenter(
        {"soft": member, "net": network}, {"soft": 0.28, "net": 0.97}, {"why": "test", "score": math.nan}
    )
    files = {"soft": path, "net": tmp_path / "n.safetensors"}
    save_ensemble(one, tmp_path / "e.json", files)
    entry = json.loads((tmp_path / "e.json").read_text())
    assert [row["path"] for row in entry["members"]] == ["parcels/lv-la.json", "n.safetensors"]
    loaded = load_ensemble(tmp_path / "e.json")
    assert (loaded.fingerprint, loaded.weights, loaded.provenance) == (
        one.fingerprint,
        one.weights,
        {"why": "test", "score": None},  # strict JSON has no NaN
    )
    frames = torch.randint(0, 255, (2, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(loaded.probabilities(frames), one.probabilities(frames))
    assert isinstance(load_network(tmp_path / "e.json"), EnsembleSegmenter)
    assert isinstance(load_network(path), ParcelMember)
    moved = tmp_path / "moved"
    (tmp_path / "parcels").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="'soft' cannot be loaded"):
        load_ensemble(tmp_path / "e.json")
    assert not moved.exists()
    with pytest.raises(ParameterError, match="the member 'net' has no file"):
        save_ensemble(one, tmp_path / "x.json", {"soft": path})


def test_changed_files_are_refused(tmp_path):
    networks = {str(n): untrained_segmenter(SMALL, ["lv"], seed=n) for n in range(2)}
    files = {name: tmp_path / f"{name}.safetensors" for name in networks}
    for name, one in networks.items():
        save_segmenter(one, files[name])
    path = tmp_path / "e.json"
    save_ensemble(EnsembleSegmenter(networks), path, files)
    entry = json.loads(path.read_text())
    entry["members"][0]["weight"] = 3
    path.write_text(json.dumps(entry))
    with pytest.raises(CheckpointError, match="weights were changed"):
        load_ensemble(path)
    save_ensemble(EnsembleSegmenter(networks), path, files)
    save_segmenter(untrained_segmenter(SMALL, ["lv"], seed=7), files["1"])
    with pytest.raises(CheckpointError, match=r"member '1' was .* trained again"):
        load_ensemble(path)
    for wrong in ("{}", '{"schema": "alan-ensemble/1"}', '{"schema": "alan-ensemble/1", "members": 3}'):
        path.write_text(wrong)
        with pytest.raises(CheckpointError):
            load_ensemble(path)
    path.write_text("{")
    with pytest.raises(DataError, match="not a JSON"):
        load_ensemble(path)
    for wrong in ("{}", '{"schema": "alan-parcel-member/1"}'):
        path.write_text(wrong)
        with pytest.raises(CheckpointError):
            load_member(path)
