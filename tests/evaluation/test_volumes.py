"""Volumes of slices: Dice by hand, surfaces by brute force, volumes and EF of half ellipsoids, a whole run."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt

from alan.data.preprocessing import Preprocessing
from alan.data.readers.base import EchoDataset
from alan.data.sample import Record, Sample
from alan.data.store.reader import FrameStore
from alan.data.store.writer import prepare
from alan.errors import DataError
from alan.evaluation.metrics import distances
from alan.evaluation.protocols import SegmentationProtocol
from alan.evaluation.run import run_evaluation
from alan.evaluation.scoring import read_manual, score_volumes, summarise_volumes
from alan.evaluation.summary import compare_ejection_fractions
from alan.report.html import write_report
from alan.supervised.segmenter import save_segmenter
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

SHAPE, PIXEL, STEP = (60, 48), (1.2, 1.5), 4.0
#: Semi-axes (row, column, depth) in mm of the half ellipsoid at ED and ES of a patient.
AXES = {"ED": (24.0, 20.0, 80.0), "ES": (18.0, 16.0, 60.0)}


class HalfEllipsoids(EchoDataset):
    """Slices of half ellipsoids, base first, and one empty slice beyond the apex; two patients for each split."""

    name = "Half ellipsoids"
    structures = ("lv",)

    def __init__(self, root, slice_mm=STEP, odd=False):
        super().__init__(root, "nothing")
        depth = round(AXES["ED"][2] / STEP) + 1
        attributes = {} if slice_mm is None else {"slice_mm": slice_mm}
        self._parts = [(patient, phase, z) for patient in range(4) for phase in AXES for z in range(depth)]
        records = [
            Record(f"p{p}_{phase}_{z}", f"p{p}", "val" if p < 2 else "test", attributes=attributes)
            for p, phase, z in self._parts
        ]
        self._odd = odd
        self._set_records(records, [[] for _ in records], {})

    def _load(self, index):
        patient, phase, z = self._parts[index]
        mask = half_ellipsoid_slice(patient, phase, z)
        frame = np.where(mask, 200, 30).astype(np.uint8)
        if self._odd and index == len(self._parts) - 1:
            mask, frame = mask[1:], frame[1:]
        ed, es = (0, None) if phase == "ED" else (None, 0)
        return Sample(self.records[index], frame[None], PIXEL, {"lv": mask[None]}, np.arange(1), ed, es)


def half_ellipsoid_slice(patient, phase, z):
    a, b, c = AXES[phase]
    rows, columns = (np.indices(SHAPE) + 0.5) * np.array(PIXEL)[:, None, None]
    depth = (z + 0.5) * STEP
    return ((rows - 36) / a) ** 2 + ((columns - 34 - patient) / b) ** 2 + (depth / c) ** 2 <= 1


def half_ellipsoid_ml(phase):
    return 2 / 3 * np.pi * np.prod(AXES[phase]) / 1000


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def store(**options):
        folder = tmp_path_factory.mktemp("volumes")
        pre = Preprocessing(72, pixel_mm=1.2)
        return prepare(HalfEllipsoids(folder, **options), folder / "s.h5", pre, workers=0, progress=False)

    return store


@pytest.fixture(scope="module")
def store(make):
    return make()


def measured(store, change=lambda masks, table: masks):
    table = store.labelled(split="test")
    manual = read_manual(store, table, "lv")
    return score_volumes(change(manual.stored.copy(), table), manual, store, table)


def test_volumes_of_half_ellipsoids_are_exact(store):
    volumes = measured(store)
    assert list(volumes["phase"]) == ["ED", "ES"] * 2
    assert set(volumes["slices"]) == {21}
    for phase in AXES:
        part = volumes[volumes["phase"] == phase]
        np.testing.assert_allclose(part["volume_manual"], half_ellipsoid_ml(phase), rtol=0.01)
        np.testing.assert_allclose(part["volume"], part["volume_manual"], rtol=0.02)  # resampled and restored
    assert volumes["dice"].min() > 0.98
    assert volumes["asd_mm"].max() < 0.4
    names = volumes.assign(method="m", kind="network", rule="", structure="lv")
    (ef,) = compare_ejection_fractions(names)
    true = 100 * (1 - half_ellipsoid_ml("ES") / half_ellipsoid_ml("ED"))
    assert true == pytest.approx(55, abs=0.1)
    by_phase = volumes.pivot(index="id", columns="phase", values="volume_manual")
    np.testing.assert_allclose(100 * (1 - by_phase["ES"] / by_phase["ED"]), true, atol=0.5)
    assert abs(ef["mean_bias"]["value"]) < 1
    assert ef["n"] == 2


def test_dice_of_a_volume_matches_hand_computed_values(store):
    """Slices weigh by their pixels, and a slice that is empty in both changes nothing."""
    table = store.labelled(split="test")
    manual = read_manual(store, table, "lv")
    a, b = np.zeros((2, 2, 8, 8), bool)
    a[0, :2, :2], b[0, 1:3, :3] = True, True  # 4 and 6 pixels, 2 shared; slice 1 is empty in both
    chosen = table.iloc[:2]
    plain = manual.__class__("lv", b, list(b), [(1.0, 1.0)] * 2, np.full(2, np.nan))

    class Plain:
        path, sequences = "x.h5", store.sequences
        preprocessing = Preprocessing(8)

    (row,) = score_volumes(a, plain, Plain(), chosen).to_dict("records")
    assert row["dice"] == pytest.approx(2 * 2 / 10)
    assert row["iou"] == pytest.approx(2 / 8)
    assert row["volume"] == pytest.approx(4 * STEP / 1000)
    assert row["error_ml"] == pytest.approx(-2 * STEP / 1000)
    nothing = score_volumes(np.zeros_like(a), plain, Plain(), chosen).iloc[0]
    assert (nothing["dice"], nothing["empty"]) == (0, True)
    assert np.isnan(nothing["hd95_mm"])
    neither = manual.__class__("lv", 0 * b, list(0 * b > 0), plain.spacing, plain.volumes)
    assert np.isnan(score_volumes(np.zeros_like(a), neither, Plain(), chosen)["dice"][0])


def test_distances_of_volumes_equal_a_distance_transform():
    rng, spacing = np.random.default_rng(0), (5.0, 1.5, 1.0)
    grid = np.indices((7, 20, 24)).reshape(3, -1).T
    a, b = (
        (((grid - centre) / (3, 6, 7)) ** 2).sum(1).reshape(7, 20, 24) <= 1
        for centre in rng.uniform((2, 8, 10), (4, 12, 14), (2, 3))
    )
    surfaces = [mask & ~binary_erosion(mask) for mask in (a, b)]
    to_b, to_a = (distance_transform_edt(~other, spacing)[mine] for mine, other in (surfaces, reversed(surfaces)))
    hd95, asd = distances(a, b, spacing)
    assert hd95 == pytest.approx(max(np.percentile(to_b, 95), np.percentile(to_a, 95)))
    assert asd == pytest.approx(np.concatenate([to_b, to_a]).mean())


def test_volumes_are_summarised_by_phase_and_together(store):
    def change(masks, table):
        masks[(table["phase"] == "ES").to_numpy()] = False
        return masks

    volumes = measured(store, change).assign(method="m")
    rows = summarise_volumes(volumes, ["method"])
    assert [row["phase"] for row in rows] == ["ED", "ES", "both"]
    assert [row["empty"] for row in rows] == [0, 2, 2]
    dice = [row["metrics"]["dice"]["mean"] for row in rows]
    assert dice[1] == 0
    assert dice[2] == pytest.approx(dice[0] / 2)
    assert rows[2]["metrics"]["dice"]["groups"] == 2
    assert rows[1]["metrics"]["hd95_mm"]["undefined"] == 2


def test_volumes_without_slice_distance_are_undefined(make):
    volumes = measured(make(slice_mm=None))
    assert volumes[["volume", "hd95_mm", "error_ml"]].isna().all(axis=None)
    assert volumes["dice"].min() > 0.98
    with pytest.raises(DataError, match="slices of p3 at ES have different sizes: set volumes to false"):
        measured(make(odd=True))


def test_volumes_are_measured_with_flips(store, tmp_path):
    spec = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))
    save_segmenter(untrained_segmenter(spec, ["lv"]), tmp_path / "n.safetensors")
    protocol = SegmentationProtocol(
        str(store.path), networks={"net": str(tmp_path / "n.safetensors")}, structures=("lv",), train_split=None,
        volumes=True, flips=True,
    )  # fmt: skip
    run = run_evaluation(tmp_path / "run", segmentation=protocol, title="Volumes")
    summary = json.loads((run / "results.json").read_text())["segmentation"]
    cases, volumes = (pd.read_csv(run / f"per_{name}.csv") for name in ("case", "volume"))
    assert len(cases) == 2 * 84
    assert len(volumes) == 2 * 4
    assert {row["method"] for row in summary["volumes"]["rows"]} == {"net", "atlas"}
    atlas = next(row for row in summary["volumes"]["rows"] if (row["method"], row["phase"]) == ("atlas", "both"))
    mine = volumes[volumes["method"] == "atlas"]
    assert atlas["metrics"]["dice"]["mean"] == pytest.approx(mine["dice"].mean(), abs=1e-5)
    frames = FrameStore(store.path).frames(store.labelled(split="test")["frame"])
    labels = np.load(run / "maps" / "network0.npz")["maps"]
    one = untrained_segmenter(spec, ["lv"])
    mean = np.mean(
        [
            np.flip(one.probabilities(np.flip(frames, axes).copy())[:, 0].numpy(), axes)
            for axes in ((), (1,), (2,), (1, 2))
        ],
        axis=0,
    )
    sure = np.abs(mean - 0.5) > 1e-5
    assert np.array_equal(labels[sure] == 1, mean[sure] > 0.5)
    write_report(run)
    page = (run / "report.html").read_text()
    for text in ("volumes of a patient at a phase", "slice by slice", "Ejection fraction from the volumes"):
        assert text in page, text
    written = pd.read_csv(run / "summary.csv")
    assert {"volume_dice", "volume_error_ml", "volume_ef_mean_bias"} <= set(written["metric"])
    assert "per_volume.csv" in set(pd.read_csv(run / "columns.csv")["file"])
