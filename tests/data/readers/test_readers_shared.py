"""Behaviour shared by all readers."""

import os
import shutil
import warnings

import numpy as np
import pytest

from alan.cli.main import main
from alan.data.readers.acdc import Acdc
from alan.data.readers.base import EchoDataset
from alan.data.readers.camus import Camus
from alan.data.readers.coco import Coco
from alan.data.readers.echonet import EchoNetDynamic
from alan.data.readers.folder import FrameFolder
from alan.data.readers.registry import open_dataset
from alan.data.readers.segments_ai import SegmentsAi
from alan.data.readers.tmed import Tmed2
from alan.data.sample import SPLITS, VIEWS
from alan.data.splits import check_split
from alan.errors import AlanWarning, DataError, ParameterError

# kind, reader, writer's options, other options of the reader that change what is read (None: it has none)
CASES = {
    "echonet": ("echonet", EchoNetDynamic, {}, None),
    "camus": ("camus", Camus, {}, {"sequences": False}),
    "camus-part": ("camus", Camus, {"sequence": False, "info": False, "lists": False}, {"views": ["A2C"]}),
    "camus-mhd": ("camus", Camus, {"mhd": True}, {"split": {"train": "1-2", "val": "3"}}),
    "tmed": ("tmed", Tmed2, {}, {"views_only": True}),
    "acdc": ("acdc", Acdc, {}, {"structures": {"lv_epi": ["lv", "myo"]}}),
    "acdc-part": ("acdc", Acdc, {"info": False}, {"structures": ["lv"]}),
    "acdc-hdf5": ("acdc", Acdc, {"hdf5": True}, {"split": {"train": "1-2", "test": "101"}}),
    "folder": ("folder", FrameFolder, {}, {"split": {"train": 0.5, "test": 0.5}}),
    "folder-colours": ("folder", FrameFolder, {"coloured": True, "table": True}, {"split": {"val": "p1"}}),
    "coco": ("coco", Coco, {}, {"patient": "(?P<patient>.*)"}),
    "segments": ("segments", SegmentsAi, {}, {"split": {"train": "p1, p2"}}),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request, tmp_path, archives):
    kind, reader, writing, other = CASES[request.param]
    root = getattr(archives, kind)(tmp_path / "archive", **writing)
    return kind, reader, root, other


class TestEveryDataset:
    def test_samples_have_the_documented_shapes_and_types(self, case):
        kind, reader, root, _ = case
        data = open_dataset(kind, root)
        assert isinstance(data, reader)
        assert isinstance(data, EchoDataset)
        assert len(data) == len(data.records) > 0
        for record, sample in zip(data.records, data, strict=True):
            assert sample.record is record
            assert sample.frames.dtype == np.uint8
            assert sample.frames.ndim == 3
            assert sample.frames.std() > 0
            assert set(sample.masks) <= set(data.structures) <= set(sample.label_names)
            assert sample.mask_frames.dtype == np.int64
            assert list(sample.mask_frames) == sorted(set(sample.mask_frames))
            for mask in sample.masks.values():
                assert mask.shape == (len(sample.mask_frames), *sample.frames.shape[1:])
                assert mask.dtype == np.bool_
                assert mask.any((1, 2)).all()
            labelled = sum(np.count_nonzero(mask) for mask in sample.masks.values())
            assert labelled == np.count_nonzero(sample.label_maps())  # disjoint
            for phase in (sample.ed, sample.es):
                assert phase is None or 0 <= phase < len(sample.frames)
            assert record.view in {*VIEWS, ""}
            assert record.split in {*SPLITS, ""}
            assert record.patient

    def test_ids_are_unique_and_no_patient_is_in_two_splits(self, case):
        kind, _, root, _ = case
        records = open_dataset(kind, root).records
        assert len({record.id for record in records}) == len(records)
        check_split(*zip(*((r.patient, r.split, r.study) for r in records), strict=True))

    def test_the_fingerprint_does_not_depend_on_the_location(self, case, tmp_path):
        kind, _, root, _ = case
        before = open_dataset(kind, root).fingerprint()
        moved = shutil.copytree(root, tmp_path / "moved" / "elsewhere", copy_function=shutil.copyfile)
        assert open_dataset(kind, moved).fingerprint() == before

    def test_the_fingerprint_changes_with_options_and_files(self, case):
        kind, _, root, other = case
        data = open_dataset(kind, root)
        before = data.fingerprint()
        if other is not None:
            assert open_dataset(kind, root, **other).fingerprint() != before
        with data._files[0][0].open("ab") as file:
            file.write(b"\0")
        assert open_dataset(kind, root).fingerprint() != before

    def test_a_file_changed_within_its_size_changes_the_fingerprint(self, case):
        kind, _, root, _ = case
        before = open_dataset(kind, root).fingerprint()
        read = [path for path in root.rglob("*") if path.suffix in {".avi", ".png", ".gz", ".raw", ".zraw", ".h5"}]
        for path in (min(read), max(read)):
            content, times = path.read_bytes(), path.stat()
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            assert open_dataset(kind, root).fingerprint() != before
            path.write_bytes(content)
        assert open_dataset(kind, root).fingerprint() == before

    @pytest.mark.filterwarnings("ignore::alan.errors.AlanWarning")
    def test_damage_anywhere_is_refused_or_reads_the_same(self, case):
        kind, _, root, _ = case
        rng = np.random.default_rng(0)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        for path in [files[index] for index in rng.integers(0, len(files), 12)]:
            whole = path.read_bytes()
            place = int(rng.integers(len(whole)))
            for damaged in (whole[:place], whole[:place] + rng.bytes(8) + whole[place + 8 :], b"", b"[1, 2]"):
                path.write_bytes(damaged)
                try:
                    for sample in open_dataset(kind, root):
                        assert sample.frames.size
                except DataError as error:
                    assert "\n" not in str(error)  # noqa: PT017
            path.write_bytes(whole)

    def test_a_plot_has_a_picture_for_each_phase_and_a_legend(self, case):
        kind, _, root, _ = case
        data = open_dataset(kind, root)
        sample, figure = data[0], data.plot(0)
        shown = sorted({frame for frame in (sample.ed, sample.es) if frame is not None})
        assert len(figure.axes) == max(1, len(shown))
        assert [text.get_text() for legend in figure.legends for text in legend.get_texts()] == list(sample.masks)
        assert len(data.plot(0, frame=0).axes) == 1
        with pytest.raises(IndexError, match="frame 99 of"):
            data.plot(0, frame=99)

    def test_a_simulated_archive_is_recognised(self, case):
        kind, reader, root, _ = case
        real = open_dataset(kind, root)
        assert (real.simulated, real.name) == (False, reader.name)
        (root / "simulation.json").write_text('{"complete": true}')
        data = open_dataset(
            kind,
            root,
            **({"annotations": "instances.json"} if kind == "coco" else {}),
            **({"release": "release.json"} if kind == "segments" else {}),
        )
        assert (data.simulated, data.name) == (True, f"simulated {reader.name}")
        assert data.fingerprint() != real.fingerprint()

    @pytest.mark.filterwarnings("ignore::alan.errors.AlanWarning")
    def test_a_root_one_level_up_is_refused_with_the_right_one(self, case):
        kind, _, root, _ = case
        inner = root.rename(root.parent / "inner")
        root.mkdir()
        inner = inner.rename(root / "inner")
        with pytest.raises(DataError, match=f"did you mean {inner}, which can be opened"):
            open_dataset(kind, root)

    def test_an_index_beyond_the_end_is_refused(self, case):
        kind, _, root, _ = case
        data = open_dataset(kind, root)
        assert np.array_equal(data[-1].frames, data[len(data) - 1].frames)
        for index in (len(data), -len(data) - 1):
            with pytest.raises(IndexError, match=str(index)):
                data[index]

    def test_a_missing_root_is_refused_with_path_and_remedy(self, case, tmp_path):
        with pytest.raises(DataError, match=r"nowhere: no such folder; .* needs the folder that holds"):
            open_dataset(case[0], tmp_path / "nowhere")

    def test_an_empty_root_is_refused(self, case, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="empty"):
            open_dataset(case[0], tmp_path / "empty")

    def test_an_undecodable_sample_is_a_data_error(self, case):
        kind, _, root, _ = case
        data = open_dataset(kind, root)
        path = next(path for path in data._files[0] if path.suffix in {".avi", ".png", ".gz", ".mhd", ".h5"})
        path.write_bytes(b"not a picture")
        with pytest.raises(DataError, match=path.name):
            data[0]

    def test_an_unknown_option_offers_the_nearest(self, case):
        kind, _, root, _ = case
        wrong = {"camus": "viewz", "tmed": "view_only"}.get(kind, "splitt")
        hint = {"camus": "views", "tmed": "views_only"}.get(kind, "did you mean 'split'")
        with pytest.raises(ParameterError, match=hint):
            open_dataset(kind, root, **{wrong: True})

    def test_an_intact_archive_gives_no_warning(self, case):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert open_dataset(case[0], case[2]).skipped == {}

    def test_a_link_to_a_missing_file_is_listed(self, case):
        kind, _, root, _ = case
        (root / "more").symlink_to("../objects/more")
        with pytest.warns(AlanWarning, match="skipped 1 places that cannot be read"):
            (failure,) = open_dataset(kind, root).failures
        assert failure.file == "more"
        assert "git annex get" in failure.reason

    @pytest.mark.filterwarnings("default")
    def test_a_damaged_file_is_listed_by_check_and_prepare(self, case, tmp_path, capsys):
        kind, _, root, _ = case
        path = open_dataset(kind, root)._files[-1][0]
        path.write_bytes(path.read_bytes()[:40])
        place, name = ["--kind", kind, "--root", str(root)], path.relative_to(root).as_posix()
        before = sorted(root.rglob("*"))
        assert main(["check", *place]) == 1
        out, err = capsys.readouterr()
        assert sum(name in line for line in out.splitlines()) == 1
        assert "Traceback" not in err
        assert sorted(root.rglob("*")) == before
        store = ["--out", str(tmp_path / "out" / "store.h5"), "--size=32", "--workers=0"]
        assert main(["prepare", *place, *store]) == 0
        assert "skipped 1 of" in capsys.readouterr().err
        assert main(["prepare", *place, *store, "--strict=true", "--overwrite=true"]) == 1
        listed = (tmp_path / "out" / "failures.csv").read_text()
        assert sum(line.startswith(name) for line in listed.splitlines()) == 1


def test_an_unknown_kind_offers_the_nearest(tmp_path):
    with pytest.raises(ParameterError, match="did you mean 'camus'"):
        open_dataset("camsu", tmp_path)
