"""Simulated archives: layouts, determinism, resuming and readers."""

import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813

from alan.data.fan_search import find_fans
from alan.data.io.video import read_video
from alan.data.readers.camus import Camus
from alan.data.simulator import simulate_archive, simulate_sequence
from alan.data.simulator.anatomy import PatientAnatomy
from alan.data.simulator.archive import draw_splits
from alan.data.simulator.layouts import LAYOUTS, CamusLayout, PatientJob, write_avi, write_nifti
from alan.data.simulator.scene import LA, LV, MYO
from alan.errors import DataError, ParameterError

SMALL = {
    "echonet": {"n_frames": 3, "size": 64},
    "camus": {"n_frames": 2, "size": (48, 64)},
    "tmed": {"n_frames": 1, "size": 48},
    "clinic": {"n_frames": 2, "views": ("A4C",)},
}
PATIENTS = 4


def write(root, layout, seed=0, workers=1, **options):
    return simulate_archive(
        root, layout, PATIENTS, seed=seed, workers=workers, progress=False, **{**SMALL[layout], **options}
    )


def digest(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    base = tmp_path_factory.mktemp("archives")
    return {layout: write(base / layout, layout) for layout in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_depend_on_the_seed_not_on_the_workers(roots, tmp_path, layout):
    again = digest(write(tmp_path / "again", layout, workers=2))
    assert again == digest(roots[layout])
    other = digest(write(tmp_path / "other", layout, seed=1))
    pictures = [name for name in again if name.endswith((".png", "ED.nii.gz"))]
    assert all(again[name] != other.get(name) for name in pictures)
    assert set(again.values()) != set(other.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_interrupted_run_is_continued(roots, tmp_path, monkeypatch, layout):
    kind, done = LAYOUTS[layout], []
    original = kind.write_patient

    def fails_at_third(job):
        if len(done) == 2:
            raise OSError(28, "No space left on device")
        done.append(job.number)
        return original(job)

    monkeypatch.setattr(kind, "write_patient", fails_at_third, raising=False)
    with pytest.raises(DataError, match=r"No space left.*run again"):
        write(tmp_path / "a", layout)
    assert not json.loads((tmp_path / "a" / "simulation.json").read_text())["complete"]
    (tmp_path / "a" / ".x.csv.99.part").write_text("left by a kill")
    again = []
    monkeypatch.setattr(kind, "write_patient", lambda job: again.append(job.number) or original(job))
    write(tmp_path / "a", layout)
    assert again == [3, 4]
    assert digest(tmp_path / "a") == digest(roots[layout])
    write(tmp_path / "a", layout)
    assert again == [3, 4]


def test_a_foreign_folder_is_refused(roots, tmp_path):
    with pytest.raises(DataError, match=r"another simulated archive \(seed 0 not 7\)"):
        write(roots["tmed"], "tmed", seed=7)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        write(tmp_path, "tmed")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_splits_depend_on_the_seed_and_are_never_empty():
    for n in (3, 4, 10, 57):
        sides = draw_splits(n, (0.7, 0.1, 0.2), 0)
        assert len(sides) == n
        assert set(sides) == {"train", "val", "test"}
    assert draw_splits(3, (0.0, 0.0, 1.0), 0).count("test") == 1
    sides = draw_splits(100, (0.7, 0.1, 0.2), 0)
    assert [sides.count(side) for side in ("train", "val", "test")] == [70, 10, 20]
    assert sides != draw_splits(100, (0.7, 0.1, 0.2), 1)


def test_camus_files_follow_the_release(roots):
    root = roots["camus"]
    folder = root / "database_nifti" / "patient0002"
    expected = {f"Info_{chamber}.cfg" for chamber in ("2CH", "4CH")} | {
        f"patient0002_{chamber}_{part}{end}.nii.gz"
        for chamber in ("2CH", "4CH")
        for part in ("ED", "ES", "half_sequence")
        for end in ("", "_gt")
    }
    assert {path.name for path in folder.iterdir()} == expected
    image = sitk.ReadImage(folder / "patient0002_4CH_ED.nii.gz")
    assert image.GetSize() == (64, 48)  # axis 0 is the width
    assert image.GetSpacing()[0] != image.GetSpacing()[1]
    frame = sitk.GetArrayFromImage(image)
    assert (frame[0] > 0).sum() < (frame[24] > 0).sum()  # rows run away from the probe
    sequence = sitk.ReadImage(folder / "patient0002_4CH_half_sequence.nii.gz")
    assert sequence.GetSize() == (64, 48, 2)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sequence)[0], frame)
    truth = sitk.GetArrayFromImage(sitk.ReadImage(folder / "patient0002_4CH_ES_gt.nii.gz"))
    assert set(np.unique(truth)) == {0, 1, 2, 3}
    info = dict(line.split(": ") for line in (folder / "Info_4CH.cfg").read_text().splitlines())
    assert list(info) == ["ED", "ES", "NbFrame", "Sex", "Age", "ImageQuality", "EF", "FrameRate"]
    assert (info["ED"], info["ES"], info["NbFrame"]) == ("1", "2", "2")
    lists = [root / "database_split" / f"subgroup_{name}.txt" for name in ("training", "validation", "testing")]
    named = [name for path in lists for name in path.read_text().split()]
    assert sorted(named) == [f"patient{i:04d}" for i in range(1, PATIENTS + 1)]


def test_the_tmed_table_has_one_split_per_study(roots):
    table = pd.read_csv(roots["tmed"] / "TMED2_fold0_labeledpart.csv")
    assert list(table.columns) == [
        "query_key",
        "SourceFolder",
        "view_label",
        "view_classifier_split",
        "diagnosis_label",
        "diagnosis_classifier_split",
    ]
    parts = table["query_key"].str.extract(r"^(\d+)s(\d+)_(\d+)\.png$")
    assert parts[[0, 1]].drop_duplicates().groupby(0).size().tolist() == [1, 1, 1, 2]
    assert table.groupby(parts[0])["view_classifier_split"].nunique().eq(1).all()
    assert all((roots["tmed"] / row.SourceFolder / row.query_key).is_file() for row in table.itertuples())


def test_echonet_lists_have_the_official_columns(roots):
    files = pd.read_csv(roots["echonet"] / "FileList.csv")
    assert list(files.columns) == (
        ["FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split"]
    )  # fmt: skip
    assert set(files["Split"]) == {"TRAIN", "VAL", "TEST"}
    np.testing.assert_allclose(files["EF"], 100 * (1 - files["ESV"] / files["EDV"]), atol=0.01)
    tracings = pd.read_csv(roots["echonet"] / "VolumeTracings.csv")
    assert list(tracings.columns) == ["FileName", "X1", "Y1", "X2", "Y2", "Frame"]
    assert tracings.groupby("FileName")["Frame"].nunique().eq(2).all()
    assert {path.name for path in (roots["echonet"] / "Videos").iterdir()} == set(tracings["FileName"])


def test_readers_return_the_simulated_frames(roots, tmp_path, monkeypatch):
    from alan.data.readers.camus import Camus
    from alan.data.readers.echonet import EchoNetDynamic
    from alan.data.readers.tmed import Tmed2

    clips = []
    original = PatientJob.simulate

    def remembered(job, view, **options):
        clips.append(original(job, view, **options))
        return clips[-1]

    monkeypatch.setattr(PatientJob, "simulate", remembered)
    for layout, reader in (("echonet", EchoNetDynamic), ("camus", Camus), ("tmed", Tmed2)):
        dataset = reader(roots[layout])
        assert not dataset.skipped
        by_frames = {dataset[i].frames.tobytes(): dataset[i] for i in range(len(dataset))}
        clips.clear()
        job = first_job(roots[layout], tmp_path)
        LAYOUTS[layout].write_patient(job)
        assert clips
        for clip in clips:
            sample = by_frames[clip.frames.tobytes()]
            assert sample.record.view == clip.view
            assert sample.record.split == job.split
            if layout != "tmed":
                assert (sample.ed, sample.es) == (clip.ed, clip.es)
            for name in sample.masks:
                value = dataset.structures.index(name) + 1
                truth = clip.labels[sample.mask_frames] == value
                overlap = 2 * (sample.masks[name] & truth).sum() / (sample.masks[name].sum() + truth.sum())
                assert overlap > (0.93 if layout == "echonet" else 0.999999)
            if layout == "camus":
                assert sample.spacing == pytest.approx(clip.spacing_mm, rel=1e-5)
        assert {record.split for record in dataset.records} == {"train", "val", "test"}


def first_job(root, target):
    """The first patient's job, as ``simulate_archive`` makes it, to be written elsewhere."""
    settings = json.loads((root / "simulation.json").read_text())
    seed, order = settings["seed"], list(LAYOUTS).index(settings["layout"])
    return PatientJob(
        root=target,
        number=1,
        anatomy=PatientAnatomy.sample([seed, order, 1]),
        seed=(seed, order, 1),
        split=draw_splits(settings["n_patients"], tuple(settings["split"]), seed)[0],
        views=tuple(settings["views"]),
        n_frames=settings["n_frames"],
        shape=tuple(settings["size"]),
    )


def test_videos_are_lossless(tmp_path):
    av = pytest.importorskip("av")
    frames = np.random.default_rng(0).integers(0, 256, (5, 34, 46), dtype=np.uint8)
    write_avi(tmp_path / "a.avi", frames, 47.25)
    with av.open(str(tmp_path / "a.avi")) as container:
        rate = float(container.streams.video[0].average_rate)
        found = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
    np.testing.assert_array_equal(found, frames)
    assert rate == pytest.approx(47.25, abs=0.01)


def test_failed_writes_leave_no_files(tmp_path, monkeypatch):
    def fails(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match="No space left"):
        write_nifti(tmp_path / "a.nii.gz", np.zeros((4, 5), np.uint8), (1.0, 2.0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
def test_nifti_files_follow_itk_conventions(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    write_nifti(tmp_path / "own.nii.gz", array, (0.5, 0.25))
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.25, 0.5, 1.0)[: array.ndim])
    sitk.WriteImage(image, str(tmp_path / "itk.nii.gz"))
    own, theirs = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("own", "itk"))
    np.testing.assert_array_equal(own.get_fdata().squeeze(), theirs.get_fdata().squeeze())
    np.testing.assert_allclose(own.affine, theirs.affine)
    assert own.header.get_zooms()[: array.ndim] == theirs.header.get_zooms()[: array.ndim]
    back = sitk.ReadImage(tmp_path / "own.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), array)
    assert back.GetSpacing() == image.GetSpacing()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "camuz"}, "did you mean 'camus'"),
        ({"n_patients": 2}, "give a whole number from 3"),
        ({"n_patients": 10_000}, "from 3 to 9999"),
        ({"layout": "echonet", "views": ("PLAX",)}, "no view PLAX: choose one of: A4C"),
        ({"first_patient": 9998}, "at most 9997 for 3 patients"),
        ({"views": ("A4",)}, "did you mean 'A4C'"),
        ({"views": ("A4C", "A4C")}, "each view once"),
        ({"views": ()}, "each view once"),
        ({"n_frames": 1}, "at least 2"),
        ({"workers": 0}, "at least 1"),
        ({"seed": -3}, "at least 0"),
        ({"split": (0.5, 0.2, 0.2)}, "sum to 1"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ParameterError, match=message) as caught:
        simulate_archive(tmp_path / "x", **{"layout": "camus", "n_patients": 3, "progress": False, **options})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_views_can_be_chosen(tmp_path):
    root = write(tmp_path / "x", "camus", views=("A4C",))
    assert not list(root.rglob("*2CH*"))
    assert len(list(root.rglob("*_4CH_ED.nii.gz"))) == PATIENTS
    assert CamusLayout.views == ("A2C", "A4C")


def test_loops_of_a_clinic_have_a_screen_around_the_sector(roots):
    table = pd.read_csv(roots["clinic"] / "ef.csv")
    assert len(table) == PATIENTS
    expected = 100 * (1 - table["esv_ml"] / table["edv_ml"])
    np.testing.assert_allclose(table["ef_percent"], expected, atol=0.05)
    for name in table["patient"][:2]:
        cine = read_video(roots["clinic"] / "loops" / f"{name}_A4C.avi")
        assert cine.frames.shape[0] == 2
        (fan,) = find_fans(cine.frames)
        assert 60 <= np.degrees(fan.right - fan.left) <= 100
        assert (cine.frames.max(0)[~fan.mask()] > 100).any()  # text and rulers


def test_archives_of_one_seed_share_no_patient(tmp_path):
    ejection = set()
    for layout, kind in LAYOUTS.items():
        jobs = []

        class Spy(type(kind)):
            def write_patient(self, job, jobs=jobs):
                jobs.append(job)
                return []

            def finish(self, root, jobs, rows):
                pass

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(LAYOUTS, layout, Spy())
            write(tmp_path / layout, layout)
        ejection |= {job.anatomy.ef for job in jobs}
    assert len(ejection) == PATIENTS * len(LAYOUTS)


def test_stills_need_no_video_library(tmp_path):
    code = (
        "import sys; sys.modules['av'] = None; from alan.data.simulator import simulate_archive; "
        "simulate_archive(sys.argv[1], 'camus', 3, views=['A4C'], n_frames=2, size=48, progress=False)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "archive")], check=True)
    assert len(list((tmp_path / "archive").rglob("*_4CH_ED.nii.gz"))) == 3


def test_parasternal_views_are_written_on_request(tmp_path):
    root = write(tmp_path / "x", "camus", views=("PLAX", "PSAX"))
    found = Camus(root, views=("PLAX", "PSAX"))
    assert [record.view for record in found.records] == ["PLAX", "PSAX"] * PATIENTS
    with pytest.raises(DataError):
        Camus(root)
    anatomy = PatientAnatomy.sample([0, 1, 1])
    for index, view in enumerate(("PLAX", "PSAX")):
        clip = simulate_sequence(
            view, anatomy, n_frames=2, size=(48, 64), seed=(0, 1, 1), systole_only=True, labels_outside=True
        )
        sample = found[index]
        np.testing.assert_array_equal(sample.frames, clip.frames)
        for name, value in (("lv", LV), ("myo", MYO), ("la", LA)):
            np.testing.assert_array_equal(sample.masks[name], clip.labels == value)
    assert not found[1].masks["la"].any()  # no atrium in the short axis


def test_a_first_number_renames_patients_and_changes_nothing_else(roots, tmp_path):
    root = write(tmp_path / "x", "camus", first_patient=101)
    names = {name.replace("patient01", "patient00"): value for name, value in digest(root).items()}
    expected = digest(roots["camus"])
    changed = {name for name in expected if names[name] != expected[name]}
    assert changed == {name for name in expected if name.endswith((".txt", "simulation.json"))}
