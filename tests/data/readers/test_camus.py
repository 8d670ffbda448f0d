import gzip
import json
from collections import Counter

import numpy as np
import pytest

from alan.data.readers.camus import Camus
from alan.errors import AlanWarning, DataError, ParameterError, SplitLeakError


def test_half_sequences_are_read_with_their_masks(tmp_path, archives):
    data = Camus(archives.camus(tmp_path))
    assert [record.id for record in data.records[:2]] == ["patient0001_2CH", "patient0001_4CH"]
    assert [record.view for record in data.records[:2]] == ["A2C", "A4C"]
    assert [record.split for record in data.records] == ["train", "train", "val", "val", "test", "test"]
    assert data.records[0].attributes == {"EF": 54.0, "fps": 49.1, "Sex": "F", "Age": "56", "ImageQuality": "Good"}
    frames, maps = archives.camus_frames(100 + 3 + ord("4"))
    sample = data[1]
    assert np.array_equal(sample.frames, frames)
    assert np.array_equal(sample.label_maps(), maps)
    assert sample.spacing == pytest.approx((0.5, 0.25))
    assert (sample.ed, sample.es) == (0, 4)
    assert sample.mask_frames.tolist() == [0, 1, 2, 3, 4]


def test_the_folder_of_patients_is_accepted_as_root(tmp_path, archives):
    root = archives.camus(tmp_path)
    inner, outer = Camus(root / "database_nifti"), Camus(root)
    assert inner.fingerprint() == outer.fingerprint()
    assert inner.records == outer.records
    assert np.array_equal(inner[2].frames, outer[2].frames)


def test_sequences_without_masks_use_those_of_ed_and_es(tmp_path, archives):
    root = archives.camus(tmp_path)
    folder = root / "database_nifti" / "patient0001"
    (folder / "patient0001_4CH_half_sequence_gt.nii.gz").unlink()
    info = folder / "Info_4CH.cfg"
    info.write_text(info.read_text().replace("ED: 1", "ED: 4").replace("ES: 5", "ES: 2"))
    _, maps = archives.camus_frames(100 + 3 + ord("4"))
    sample = Camus(root)[1]
    assert (sample.ed, sample.es) == (3, 1)
    assert sample.mask_frames.tolist() == [1, 3]
    assert np.array_equal(sample.label_maps(), maps[[4, 0]])  # in order of time: the ES mask, then the ED mask
    (folder / "patient0001_4CH_ES_gt.nii.gz").unlink()
    assert Camus(root)[1].mask_frames.tolist() == [3]


def test_phases_without_info_files_are_found_by_the_stills(tmp_path, archives):
    root = archives.camus(tmp_path, info=False)
    (root / "database_nifti" / "patient0001" / "patient0001_4CH_ES.nii.gz").unlink()
    sample = Camus(root)[0]
    assert (sample.ed, sample.es) == (0, 4)
    assert (Camus(root)[1].ed, Camus(root)[1].es) == (0, None)


def test_stills_are_read_without_sequences(tmp_path, archives):
    root = archives.camus(tmp_path, views=("4CH",))
    frames, maps = archives.camus_frames(100 + 3 + ord("4"))
    sample = Camus(root, sequences=False)[0]
    assert np.array_equal(sample.frames, frames[[0, 4]])
    assert np.array_equal(sample.label_maps(), maps[[0, 4]])
    assert (sample.ed, sample.es) == (0, 1)
    folder = root / "database_nifti" / "patient0001"
    (folder / "patient0001_4CH_ED_gt.nii.gz").unlink()
    assert Camus(root, sequences=False)[0].mask_frames.tolist() == [1]
    (folder / "patient0001_4CH_ED.nii.gz").unlink()
    sample = Camus(root, sequences=False)[0]
    assert len(sample.frames) == 1
    assert (sample.ed, sample.es) == (None, 0)


def test_missing_views_and_patients_are_tolerated(tmp_path, archives):
    root = archives.camus(tmp_path, views=("4CH",), sequence=False, info=False, lists=False)
    data = Camus(root)
    assert Counter((record.view, record.split) for record in data.records) == {("A4C", ""): 3}
    assert data.records[0].attributes == {}
    with pytest.raises(DataError, match="no CAMUS sample found"):
        Camus(root, views=("A2C",))


def test_the_older_release_is_read(tmp_path, archives):
    archives.camus(tmp_path, mhd=True)
    archives.camus(tmp_path, mhd=True, part="testing", patients=(1,))
    data = Camus(tmp_path)
    assert [(r.patient, r.split) for r in data.records if r.view == "A4C"] == [
        ("patient0001", "train"),
        ("patient0002", "train"),
        ("patient0003", "train"),
        ("test-patient0001", "test"),
    ]
    assert data.records[0].attributes["EF"] == 54.0
    assert data.records[0].attributes["EDV"] == 94.2
    assert data.records[0].attributes["ESV"] == 43.3
    frames, maps = archives.camus_frames(100 + 3 + ord("4"))
    sample = data[1]
    assert np.array_equal(sample.frames, frames)
    assert sample.mask_frames.tolist() == [0, 4]
    assert np.array_equal(sample.label_maps(), maps[[0, 4]])
    still = Camus(tmp_path, sequences=False)[1]
    assert np.array_equal(still.frames, frames[[0, 4]])
    mapped = Camus(tmp_path, split={"train": "1-2", "val": 3, "test": "test-patient0001"})
    assert [record.split for record in mapped.records[::2]] == ["train", "train", "val", "test"]


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_split_file_assigns_patients(tmp_path, archives, suffix):
    root = archives.camus(tmp_path / "camus")
    path = tmp_path / f"split.{suffix}"
    mapping = {"train": "2-300", "test": ["patient0001"]}
    path.write_text(json.dumps(mapping) if suffix == "json" else "train: 2-300\ntest: [patient0001]\n")
    for split in (path, str(path), mapping):
        assert [r.split for r in Camus(root, split=split).records[::2]] == ["test", "train", "train"]


def test_invalid_splits_are_refused(tmp_path, archives):
    root = archives.camus(tmp_path)
    with pytest.raises(SplitLeakError, match="patient 'patient0002' is in two splits"):
        Camus(root, split={"train": "1-2", "test": "2-3"})
    with pytest.raises(DataError, match=r"split 'val' is empty: none of the 3 patients .* is in '301-350'"):
        Camus(root, split={"train": "1-3", "val": "301-350"})
    with pytest.raises(ParameterError, match="did you mean 'val'"):
        Camus(root, split={"valid": "1-3"})
    with pytest.raises(DataError, match="no such split file"):
        Camus(root, split="offical")
    lists = root / "database_split"
    (lists / "subgroup_testing.txt").write_text("patient0001\npatient0003\n")
    with pytest.raises(SplitLeakError, match="patient0001"):
        Camus(root)
    for path in lists.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="the official split"):
        Camus(root, split="official")


def test_a_part_of_the_official_lists_is_accepted(tmp_path, archives):
    root = archives.camus(tmp_path)
    (root / "database_split" / "subgroup_validation.txt").unlink()
    assert [r.split for r in Camus(root, split="official").records[::2]] == ["train", "", "test"]


def test_image_and_mask_of_different_shape_are_refused(tmp_path, archives):
    root = archives.camus(tmp_path, sequence=False)
    folder = root / "database_nifti" / "patient0001"
    archives.medical(folder / "patient0001_2CH_ES_gt.nii.gz", np.zeros((40, 61)))
    with pytest.raises(
        DataError, match=r"patient0001_2CH_ES_gt.nii.gz is \(40, 61\) .*patient0001_2CH_ED.nii.gz is"
    ):
        Camus(root)[0]


def test_sequence_and_mask_of_different_length_are_refused(tmp_path, archives):
    root = archives.camus(tmp_path)
    folder = root / "database_nifti" / "patient0001"
    archives.medical(folder / "patient0001_2CH_half_sequence_gt.nii.gz", np.zeros((4, 40, 60)))
    with pytest.raises(DataError, match=r"sequence_gt.nii.gz has 4 frames but .*half_sequence.nii.gz has 5"):
        Camus(root)[0]


def test_a_sequence_in_place_of_a_still_is_refused(tmp_path, archives):
    root = archives.camus(tmp_path, sequence=False)
    archives.medical(root / "database_nifti/patient0001/patient0001_2CH_ED.nii.gz", np.zeros((2, 40, 60)))
    with pytest.raises(DataError, match="holds 2 frames; a still has one"):
        Camus(root)[0]


def test_an_unknown_label_is_refused(tmp_path, archives):
    root = archives.camus(tmp_path, sequence=False)
    archives.medical(root / "database_nifti/patient0001/patient0001_2CH_ED_gt.nii.gz", np.full((40, 60), 4))
    with pytest.raises(DataError, match=r"ED_gt.nii.gz: labels must be 0 to 3, found 4"):
        Camus(root)[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_info_files_of_other_programs_are_read(tmp_path, archives, encoding):
    root = archives.camus(tmp_path)
    info = root / "database_nifti" / "patient0001" / "Info_4CH.cfg"
    info.write_bytes("ED = 2\r\nES = 4\r\nEF = 55,5\r\nNote = né\r\n".encode(encoding))
    data = Camus(root)
    assert data.records[1].attributes == {"EF": 55.5}
    assert (data[1].ed, data[1].es) == (1, 3)


def test_values_that_no_heart_has_are_listed_and_left_out(tmp_path, archives):
    root = archives.camus(tmp_path)
    info = root / "database_nifti" / "patient0001" / "Info_4CH.cfg"
    info.write_text("ED: 2\nES: 4\nLVef: 600\nLVedv: 80\nFrameRate: 1e-6\n")
    with pytest.warns(AlanWarning, match=r"first in patient0001_4CH: Info_4CH.cfg: EF is 600: give 1 to 100 %"):
        data = Camus(root)
    assert data.records[1].attributes == {"EDV": 80.0}
    assert [failure.reason.partition(":")[2].split()[0] for failure in data.failures] == ["EF", "fps"]


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"[]"])
def test_info_files_without_a_field_are_listed(tmp_path, archives, data):
    root = archives.camus(tmp_path)
    (root / "database_nifti" / "patient0001" / "Info_4CH.cfg").write_bytes(data)
    with pytest.warns(AlanWarning, match="Info files without a field, the first in patient0001_4CH"):
        assert Camus(root).records[1].attributes == {}


def test_unpacked_files_are_accepted_beside_packed_ones(tmp_path, archives):
    root = archives.camus(tmp_path, sequence=False)
    expected = [(sample.frames, sample.label_maps()) for sample in Camus(root)]
    for path in sorted(root.rglob("*.nii.gz"))[::3]:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    for sample, (frames, maps) in zip(Camus(root), expected, strict=True):
        assert np.array_equal(sample.frames, frames)
        assert np.array_equal(sample.label_maps(), maps)


def test_suffixes_in_capitals_are_accepted(tmp_path, archives):
    root = archives.camus(tmp_path / "camus")
    before = [sample.frames for sample in Camus(root)]
    for path in list(root.rglob("*.nii.gz")):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    for frames, sample in zip(before, Camus(root), strict=True):
        assert np.array_equal(frames, sample.frames)
        assert len(sample.mask_frames) == 5


def test_stills_that_contradict_each_other_have_no_pixel_size(tmp_path, archives):
    root = archives.camus(tmp_path / "camus", sequence=False)
    still = root / "database_nifti" / "patient0002" / "patient0002_4CH_ES.nii.gz"
    archives.medical(still, archives.camus_frames(200)[0][4], (0.9, 0.9))
    data = Camus(root)
    with pytest.warns(AlanWarning, match="pixel sizes that contradict each other, the first in patient0002_4CH"):
        spacings = {sample.record.id: sample.spacing for sample in data}
    assert [name for name, size in spacings.items() if size is None] == [data.failures[0].file]
    assert "ES states 0.9 x 0.9 mm" in data.failures[0].reason


def test_label_maps_without_a_label_are_listed(tmp_path, archives):
    root = archives.camus(tmp_path / "camus")
    labels = root / "database_nifti" / "patient0001" / "patient0001_2CH_half_sequence_gt.nii.gz"
    archives.medical(labels, np.zeros((5, 40, 60), np.uint8), dtype=np.uint8)
    data = Camus(root)
    with pytest.warns(AlanWarning, match="empty label maps, the first in patient0001_2CH: 5 of 5"):
        assert len(list(data)) == 6


def test_patients_without_a_file_are_listed(tmp_path, archives):
    root = archives.camus(tmp_path)
    (root / "database_nifti" / "patient0004").mkdir()
    with pytest.warns(
        AlanWarning, match=r"skipped 1 patient folders without an image \(database_nifti/patient0004\)"
    ):
        data = Camus(root)
    assert data.skipped == {"patient folders without an image": 1}


@pytest.mark.parametrize("value", ["0", "6", "one", "1.5"])
def test_a_phase_outside_the_sequence_is_refused(tmp_path, archives, value):
    root = archives.camus(tmp_path)
    info = root / "database_nifti" / "patient0001" / "Info_2CH.cfg"
    info.write_text(info.read_text().replace("ED: 1", f"ED: {value}"))
    with pytest.raises(DataError, match=rf"patient0001_2CH: Info gives ED: '{value}'"):
        Camus(root)[0]


def test_views_choose_the_records(tmp_path, archives):
    root = archives.camus(tmp_path)
    assert {record.view for record in Camus(root, views=["A4C"]).records} == {"A4C"}
    with pytest.raises(ParameterError, match="did you mean 'A4C'"):
        Camus(root, views=["A4B"])
    with pytest.raises(ParameterError, match="views is empty"):
        Camus(root, views=[])


@pytest.mark.real
def test_real_frames_are_upright(real_camus):
    data = Camus(real_camus, views=("A4C",), split={"train": "1-300", "val": "301-350", "test": "351-400"})
    assert Counter(record.split for record in data.records) == {"train": 299, "val": 50, "test": 50}
    for index in range(0, len(data), 40):
        sample = data[index]
        assert sample.spacing == pytest.approx((0.308, 0.308), abs=1e-3)
        assert (sample.ed, sample.es) == (0, 1)
        assert sample.mask_frames.tolist() == [0, 1]
        centre = {name: np.argwhere(mask[0]).mean(0) for name, mask in sample.masks.items()}
        assert centre["lv"][0] < centre["la"][0]  # the LV lies above the LA
        lit = sample.frames[0] > 0
        half = lit.shape[0] // 2
        assert lit[:half].sum() < 0.6 * lit[half:].sum()  # the sector opens downwards
        assert sample.masks["lv"][0].sum() > sample.masks["lv"][1].sum()  # ED is larger than ES
