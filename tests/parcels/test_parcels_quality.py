"""Quality measures of parcels, compared with hand-made maps, exhaustive search and plain loops."""

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest

from alan.backbone.load import load_backbone
from alan.data.store.reader import FrameStore
from alan.errors import ParameterError
from alan.parcels.kmeans import fit_kmeans
from alan.parcels.quality import consistency, oracle_dice, parcel_agreement, parcel_quality


def blocks(n=3, size=16, ids=5, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, ids, (n, size // 4, size // 4)).repeat(4, 1).repeat(4, 2).astype(np.uint8)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_agreement_ignores_the_numbering_of_parcels():
    maps = blocks(20)
    renamed = np.array([3, 0, 4, 1, 2])[maps]
    assert parcel_agreement(maps, renamed) == pytest.approx((1, 1, 1))
    found = parcel_agreement(maps, np.random.default_rng(1).integers(0, 5, maps.shape))
    assert max(abs(found.ami), abs(found.ari)) < 0.01
    assert found.dice < 0.3


def test_matched_dice_equals_the_best_matching():
    a, b = blocks(ids=4), blocks(ids=3, seed=1)
    overlap = [[dice(a == i, b == j) for j in range(3)] for i in range(4)]
    best = max(sum(overlap[i][j] for j, i in enumerate(chosen)) for chosen in permutations(range(4), 3))
    assert parcel_agreement(a, b).dice == pytest.approx(best / 4)  # the fourth has no partner


def test_background_and_sample_size_change_the_agreement():
    a, b = blocks(ids=4), blocks(ids=4, seed=1)
    a[:, :8] = b[:, :4] = 9
    inside = (a != 9) & (b != 9)
    alone = parcel_agreement(a[inside].reshape(3, 8, -1), b[inside].reshape(3, 8, -1))
    assert parcel_agreement(a, b, background=(9, 9)) == pytest.approx(alone)
    few = parcel_agreement(a, b, background=(9, 9), max_pixels=50)
    assert few.ami != alone.ami
    assert few.ari == alone.ari
    with pytest.raises(ParameterError, match="every pixel is background"):
        parcel_agreement(a * 0, b, background=(0, None))


def slow_overlap(maps, slack):
    hits = []
    for one, other in [*pairwise(maps), *((b, a) for a, b in pairwise(maps))]:
        for y, x in np.ndindex(one.shape):
            near = [other[v, u] for v, u in np.ndindex(one.shape) if (v - y) ** 2 + (u - x) ** 2 <= slack**2]
            hits.append(one[y, x] in near)
    return np.mean(hits)


@pytest.mark.parametrize("slack", [0, 1, 2.3])
def test_overlap_with_tolerance_equals_a_plain_loop(slack):
    maps = np.random.default_rng(0).integers(0, 30, (3, 9, 9))
    found = consistency(maps, slack=slack * 112 / 9)
    assert found.overlap == pytest.approx(slow_overlap(maps, slack))


def test_a_shift_within_the_tolerance_does_not_matter():
    maps = np.zeros((2, 112, 112), np.uint8)
    maps[0, :, 50:], maps[1, :, 53:] = 1, 1
    assert consistency(maps, slack=3) == (1, 1)
    assert consistency(maps, slack=2).overlap == pytest.approx(1 - 1 / 112)
    maps[1, :4, :2] = 7  # eight pixels: present; seven: not
    assert consistency(maps, slack=3).parcels == pytest.approx(2 / 3)
    maps[1, 0, 0] = 0
    assert consistency(maps, slack=3).parcels == 1
    assert consistency(maps, slack=3, background=0).overlap < 1
    assert np.isnan(consistency(np.full((2, 8, 8), 3), background=3)).all()


def test_the_oracle_equals_the_best_union():
    maps = blocks(4, ids=6)
    masks = np.random.default_rng(2).random(maps.shape) < maps / 6
    masks[3] = False
    unions = [chosen for n in range(1, 7) for chosen in combinations(range(6), n)]
    each = [
        max(dice(np.isin(one, u), mask) for u in unions) for one, mask in zip(maps[:3], masks[:3], strict=True)
    ]
    found = oracle_dice(maps, masks)
    assert found.image == pytest.approx(np.mean(each))
    assert found.list_ == pytest.approx(max(dice(np.isin(maps, u), masks) for u in unions))
    without = [u for u in unions if 5 not in u]
    expected = max(dice(np.isin(maps, u), masks) for u in without)
    assert oracle_dice(maps, masks, background=5).list_ == pytest.approx(expected)
    assert np.isnan(oracle_dice(maps, masks & False)).all()


def test_models_are_listed_in_a_table(tiny):
    store, backbone = FrameStore(tiny.store("camus")), load_backbone(tiny.backbone())
    frames = store.frames(np.arange(16))
    seeds = [fit_kmeans(backbone, frames, 6, sector_only=True, seed=seed) for seed in (0, 1)]
    table = parcel_quality({"two": seeds, "one": seeds[0]}, store, split="val")
    assert list(table.index) == ["two", "one"]
    assert table.loc["two", "parcels"] == 6
    assert table["in_use"].between(2, 6).all()
    assert 0 < table.loc["two", "ami"] <= 1
    assert table.loc["one", ["ami", "ari", "matched_dice"]].isna().all()
    for structure in store.structures:
        assert (table[f"list_{structure}"] <= table[f"oracle_{structure}"] + 0.05).all()
        assert table[f"oracle_{structure}"].between(0.05, 1).all()
    chosen = store.labelled("val", phases=None)
    maps = seeds[0].maps(store.frames(chosen["frame"].to_numpy())).numpy()
    expected = oracle_dice(maps, store.masks(chosen["label"].to_numpy(), "lv"), background=6)
    assert table.loc["one", "oracle_lv"] == pytest.approx(expected.image)
    assert table.loc["one", "overlap"] < parcel_quality({"m": seeds[0]}, store, slack=20).loc["m", "overlap"]
    bare = parcel_quality({"m": seeds[0]}, store, structures=())
    assert not [name for name in bare.columns if "oracle" in name]


def test_invalid_input_is_refused(tiny):
    maps = blocks()
    for call, message in (
        (lambda: parcel_agreement(maps, maps[:2]), "same frames"),
        (lambda: parcel_agreement(maps[0], maps[0]), r"give ids from 0, \(N, H, W\)"),
        (lambda: consistency(maps[:1]), "maps have 1 frame: give at least 2"),
        (lambda: consistency(maps, slack=-1), "slack is -1"),
        (lambda: oracle_dice(maps, maps[:2] > 0), "one mask per map"),
        (lambda: parcel_quality({"none": []}, FrameStore(tiny.store("camus"))), "'none' has no model"),
    ):
        with pytest.raises(ParameterError, match=message):
            call()
