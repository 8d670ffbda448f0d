"""ACDC in both layouts."""

import os
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pytest

from alan.data.preprocessing import Preprocessing
from alan.data.readers import acdc
from alan.data.readers.acdc import Acdc
from alan.data.store.writer import prepare
from alan.errors import AlanWarning, DataError, ParameterError


@pytest.fixture
def root(tmp_path, archives):
    return archives.acdc(tmp_path)


@pytest.fixture
def slices(tmp_path, archives):
    return archives.acdc(tmp_path, hdf5=True)


def by_id(data, name):
    return data[[record.id for record in data.records].index(name)]


def test_slices_of_the_official_volumes_are_read(root, archives):
    data = Acdc(root)
    assert len(data) == 3 * 2 * 3
    assert [r.id for r in data.records[:4]] == [
        "patient001_frame01_slice_1",
        "patient001_frame01_slice_2",
        "patient001_frame01_slice_3",
        "patient001_frame12_slice_1",
    ]
    assert {r.patient: r.split for r in data.records} == {
        "patient001": "train",
        "patient002": "train",
        "patient101": "test",
    }
    assert data.records[0].attributes == {"Height": 184.0, "Weight": 95.0, "Group": "DCM", "slice_mm": 1.0}
    assert {r.view for r in data.records} == {""}
    grey, labels = archives.acdc_volume(3)  # patient 1, frame 12
    sample = by_id(data, "patient001_frame12_slice_2")
    assert (sample.ed, sample.es) == (None, 0)
    assert sample.spacing == pytest.approx((1.5, 1.25))
    for name, value in {"rv": 1, "myo": 2, "lv": 3}.items():
        assert np.array_equal(sample.masks[name][0], labels[1] == value)
    low, high = grey.min(), grey.max()  # range of the volume, not of the slice
    slow = [[round(255 * (int(v) - int(low)) / (int(high) - int(low))) for v in row] for row in grey[1]]
    assert np.abs(sample.frames[0].astype(int) - slow).max() <= 1
    assert by_id(data, "patient001_frame01_slice_1").ed == 0


def test_both_layouts_give_the_same_samples(tmp_path, archives):
    volumes = Acdc(archives.acdc(tmp_path / "a"))
    slices = Acdc(archives.acdc(tmp_path / "b", hdf5=True))
    assert len(volumes) == len(slices)
    for one, other in zip(volumes, slices, strict=True):
        assert np.abs(one.frames.astype(int) - other.frames).max() <= 1
        assert np.array_equal(one.label_maps(), other.label_maps())
        assert (one.ed, one.es) == (other.ed, other.es)
        assert other.spacing is None


def write_slices(folder, images):
    """HDF5 slices of patient 1, frame 1."""
    for number, image in enumerate(images, 1):
        with h5py.File(folder / f"patient001_frame01_slice_{number}.h5", "w") as file:
            file["image"], file["label"] = image, np.full(image.shape, number % 4, np.uint8)


@pytest.mark.parametrize("layout", ["volumes", "slices"])
def test_robust_grey_values_are_scaled_by_the_volume(tmp_path, archives, layout):
    """The percentiles 0.5 and 99.5 of all slices together become 0 and 255."""
    root = archives.acdc(tmp_path, hdf5=layout == "slices")
    plain, robust = Acdc(root), Acdc(root, grey="robust")
    assert plain.fingerprint() != robust.fingerprint()
    assert plain.fingerprint() == Acdc(root, grey="range").fingerprint()
    grey, _ = archives.acdc_volume(3)  # patient 1, frame 12
    low, high = np.percentile(grey, (0.5, 99.5))
    expected = np.clip((grey[1].astype(float) - low) * 255 / (high - low), 0, 255)
    name = by_id(
        plain, "patient001_frame12_slice_2" if layout == "volumes" else "patient001_frame02_slice_2"
    ).record.id
    assert np.abs(by_id(robust, name).frames[0] - expected).max() <= 1
    assert not np.array_equal(by_id(robust, name).frames, by_id(plain, name).frames)


def test_a_bright_pixel_darkens_a_volume_only_without_robust_grey_values(tmp_path):
    images = np.random.default_rng(0).uniform(0, 0.2, (3, 40, 40))
    images[2, 0, 0] = 1
    write_slices(tmp_path, images)
    means = {grey: Acdc(tmp_path, grey=grey)[0].frames.mean() for grey in ("range", "robust")}
    assert means["range"] == pytest.approx(255 * 0.1, abs=2)
    assert means["robust"] == pytest.approx(255 * 0.5, abs=4)
    with pytest.raises(ParameterError, match="grey is 'robst': did you mean 'robust'"):
        Acdc(tmp_path, grey="robst")


@pytest.mark.parametrize("place", [".", ".."])
def test_pixel_sizes_of_slices_are_read(tmp_path, place):
    folder = tmp_path / "slices"
    folder.mkdir()
    write_slices(folder, np.zeros((2, 30, 20)))
    before = Acdc(folder)
    assert before[0].spacing is None
    table = folder / place / "spacing.csv"
    table.write_text(
        "volume,spacing_x,spacing_y,spacing_z\npatient001_frame01,1.25,1.5,10\npatient001_frame12,1.25,1.5,10\n"
    )
    data = Acdc(folder)
    assert data[1].spacing == (1.5, 1.25)  # row, column
    assert data.fingerprint() != before.fingerprint()
    store = prepare(data, tmp_path / "s.h5", Preprocessing(24, pixel_mm=1.5), workers=0, progress=False)
    assert store.sequences[0].spacing == (1.5, 1.25)
    assert [s.attributes for s in store.sequences] == [{"slice_mm": 10.0}] * 2
    restored = store.preprocessing.restore(store.masks([0], "rv"), (30, 20), (1.5, 1.25))
    assert restored[0, 3:27].all()  # 24 of 30 rows of 1.5 mm; 20 columns of 1.25 mm are 17 of 1.5 mm
    assert not restored[0, :3].any()
    for line, message in (
        ("patient001_frame12,1.25,1.6,10", "volumes of patient001 have different pixel sizes"),
        ("patient001_frame12,0,1.5,10", "give two or three numbers from 0.001 to 50, in mm"),
        ("patient001_frame12,,1.5,10", "give two or three numbers from 0.001 to 50, in mm"),
        ("patient001_frame12,a,1.5,10", "must hold numbers"),
    ):
        table.write_text(f"volume,spacing_x,spacing_y,spacing_z\npatient001_frame01,1.25,1.5,10\n{line}\n")
        with pytest.raises(DataError, match=message):
            Acdc(folder)


def test_slices_are_sorted_by_number(tmp_path):
    for number in (1, 2, 10):
        with h5py.File(tmp_path / f"patient001_frame01_slice_{number}.h5", "w") as file:
            file["image"], file["label"] = np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint8)
    assert [r.id[-2:] for r in Acdc(tmp_path).records] == ["_1", "_2", "10"]


def test_joined_structures_are_their_union(root):
    parts = Acdc(root)[0]
    data = Acdc(root, structures={"lv_epi": ["lv", "myo"]})
    assert data.structures == ("lv_epi",)
    mask = data[0].masks["lv_epi"]
    assert np.array_equal(mask, parts.masks["lv"] | parts.masks["myo"])
    assert mask.sum() > parts.masks["lv"].sum()
    assert set(data[0].label_maps().ravel()) == {0, 1}  # a class of one's own: value by position
    assert set(Acdc(root, structures=["rv"])[0].label_maps().ravel()) == {0, 4}  # rv, as in every archive


def test_a_joined_structure_survives_the_frame_store(tmp_path, root):
    data = Acdc(root, structures={"rv": "rv", "lv_epi": ["lv", "myo"]})
    store = prepare(data, tmp_path / "s.h5", Preprocessing(40, keep_aspect=True), workers=0, progress=False)
    assert store.structures == ("rv", "lv_epi")
    table = store.labelled("test")
    assert set(table["patient"]) == {"patient101"}
    first = store.labelled("train").iloc[0]
    sample = by_id(data, first["id"])
    for name in store.structures:
        assert np.array_equal(store.original_mask(int(first["label"]), name), sample.masks[name][0])
        assert store.masks([int(first["label"])], name).sum() == sample.masks[name].sum()  # padded, not resized


@pytest.mark.parametrize(
    ("structures", "message"),
    [
        (["lvv"], "did you mean 'lv'"),
        ({"a": ["lv"], "b": ["lv", "myo"]}, "'lv' is used twice"),
        ([], "no structure"),
        ({"a": []}, "no structure"),
    ],
)
def test_wrong_structures_are_refused(root, structures, message):
    with pytest.raises(ParameterError, match=message):
        Acdc(root, structures=structures)


def test_patients_are_split_as_given(slices):
    assert {r.split for r in Acdc(slices).records} == {""}
    data = Acdc(slices, split={"train": 0.34, "val": 0.33, "test": 0.33}, seed=3)
    sides = {r.patient: r.split for r in data.records}
    assert sorted(sides.values()) == ["test", "train", "val"]
    draws = [Acdc(slices, split={"train": 0.34, "val": 0.33, "test": 0.33}, seed=s).records for s in range(8)]
    assert len({tuple(r.split for r in records) for records in draws}) > 1


def test_phase_is_unknown_without_info(tmp_path, archives):
    data = Acdc(archives.acdc(tmp_path, info=False))
    assert all(sample.ed is None and sample.es is None for sample in data)
    assert all(sample.masks for sample in data)


def test_a_volume_without_labels_is_read(root):
    (root / "testing" / "patient101" / "patient101_frame01_gt.nii.gz").unlink()
    sample = by_id(Acdc(root), "patient101_frame01_slice_1")
    assert sample.masks == {}
    assert len(sample.mask_frames) == 0


def test_a_volume_is_read_once_for_all_its_slices(root, monkeypatch):
    read = Mock(side_effect=acdc.read_medical)
    monkeypatch.setattr(acdc, "read_medical", read)
    data = Acdc(root)
    first = data[0].frames.copy()
    data[0].frames[:] = 0
    assert np.array_equal(data[0].frames, first)
    assert len(list(data)) == 18
    assert read.call_count == 6


def test_labels_of_another_shape_are_refused(root, archives):
    path = root / "training" / "patient001" / "patient001_frame01_gt.nii.gz"
    archives.medical(path, np.zeros((2, 40, 36)), dtype=np.uint8)
    with pytest.raises(DataError, match="belong together"):
        Acdc(root)[0]


def test_a_damaged_volume_is_skipped_and_counted(root):
    (root / "training" / "patient001" / "patient001_frame01.nii.gz").write_bytes(b"no volume")
    with pytest.warns(AlanWarning, match="1 volumes that cannot be read"):
        data = Acdc(root)
    assert len(data) == 15
    assert sum(data.skipped.values()) == 1


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.full((4, 4), 2.0), np.zeros((4, 4)), "0 to 1, found 2"),
        (np.full((4, 4), np.nan), np.zeros((4, 4)), "0 to 1, found nan"),
        (np.zeros((4, 4)), np.full((4, 4), 4), "0 to 3, found 4"),
        (np.zeros((4, 4)), np.zeros((4, 5)), "same shape"),
        (np.zeros((4, 4)), None, "image and label"),
    ],
)
def test_wrong_hdf5_slices_are_refused(tmp_path, image, label, message):
    with h5py.File(tmp_path / "patient001_frame01_slice_1.h5", "w") as file:
        file["image"] = image
        if label is not None:
            file["label"] = label
    with pytest.raises(DataError, match=message):
        Acdc(tmp_path)[0]


@pytest.mark.real
def test_real_slices_are_read(tmp_path):
    default = Path(__file__).parents[3].parent / "shared" / "data"
    root = Path(os.environ.get("ALAN_REAL_DATA", default)) / "ACDC" / "slices"
    if not root.is_dir():
        pytest.skip(f"no real slices in {root}")
    patients = sorted({path.name[:10] for path in root.glob("*.h5")})[:20]
    for path in root.glob("*.h5"):
        if path.name[:10] in patients:
            (tmp_path / path.name).symlink_to(path.resolve())
    data = Acdc(tmp_path, split={"train": 0.7, "val": 0.1, "test": 0.2})
    assert {r.patient for r in data.records} == set(patients)
    join = Acdc(tmp_path, structures={"lv_epi": ["lv", "myo"]})
    inside, seen = [], 0
    for index in range(0, len(data), 5):
        sample, joined = data[index], join[index]
        assert (sample.ed is None) != (sample.es is None)
        assert sample.frames.std() > 5
        pixels = {name: int(mask.sum()) for name, mask in sample.masks.items()}
        assert joined.masks["lv_epi"].sum() == pixels["lv"] + pixels["myo"]
        if min(pixels.values()) > 200:
            seen += 1
            grey = {name: sample.frames[mask].mean() for name, mask in sample.masks.items()}
            inside.append(grey["lv"] > grey["myo"])  # blood is brighter than muscle in this sequence
    assert seen > 10
    assert np.mean(inside) > 0.9
