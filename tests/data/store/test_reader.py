import contextlib
import os
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError

import h5py
import numpy as np
import pytest

from alan.data.preprocessing import Preprocessing
from alan.data.store.layout import SCHEMA, read_tables, tables_checksum
from alan.data.store.reader import FrameStore
from alan.errors import DataError, ParameterError
from alan.rows import checksums

LENGTHS = (5, 4, 1, 7, 3, 6)


@pytest.fixture
def store(memory):
    return memory.store()


@pytest.fixture
def samples(memory):
    """The oracle: every sample decoded and resized on its own."""
    return [Preprocessing(16).apply(sample) for sample in memory.archive()]


def test_sequences_list_their_frames(store):
    starts = [0, 5, 9, 10, 17, 20]
    assert [(s.index, s.start, s.length) for s in store.sequences] == list(
        zip(range(6), starts, LENGTHS, strict=True)
    )
    assert [(s.ed, s.es) for s in store.sequences] == [(0, 4), (5, 8), (None, None), (10, 16), (17, 19), (20, 25)]
    assert [s.spacing for s in store.sequences] == [(0.5, 0.25), None, None, *[(0.5, 0.25)] * 3]
    first = store.sequences[0]
    assert (first.id, first.patient, first.view, first.split, first.study) == ("s0", "p0", "A4C", "train", "")
    assert first.original_shape == (20, 30)
    assert first.attributes == {"EF": 50.0}
    with pytest.raises(FrozenInstanceError):
        first.start = 3


def test_a_store_describes_itself(store):
    assert (len(store), store.size, store.name, store.structures) == (26, 16, "Memory", ("lv", "la"))
    assert store.preprocessing == Preprocessing(16)
    assert (store.skipped, store.leaks) == ({}, "")
    assert "6 sequences, 26 frames, 16 px" in repr(store)


@pytest.mark.parametrize(
    "indices", [[3], [0, 1, 2], [25, 0, 13], [7, 7, 6, 7], list(range(26)), [], np.array([2, 1], np.int32)]
)
def test_frames_are_returned_in_any_order(store, samples, indices):
    everything = np.concatenate([sample.frames for sample in samples])
    frames = store.frames(indices)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, everything[np.asarray(indices, int)].reshape(-1, 16, 16))


def test_frames_equal_those_read_by_h5py(store):
    with h5py.File(store.path) as file:
        assert np.array_equal(store.frames(range(26)), file["frames"][:])
        assert np.array_equal(store.masks(range(14), "la"), file["labels/maps"][:] == 3)


def test_unions_of_structures_have_label_maps(store):
    lv, la = (store.masks(range(14), name) for name in ("lv", "la"))
    assert np.array_equal(store.label_maps(range(14), ["la", "lv"]), np.where(la, 1, np.where(lv, 2, 0)))
    assert np.array_equal(store.label_maps([3, 1], ["lv+la"]), (lv | la)[[3, 1]])
    assert store.label_maps([], ["lv"]).shape == (0, 16, 16)
    store.check_structures(["lv+la"])
    with pytest.raises(DataError, match="no masks of 'rv'; it holds lv, la"):
        store.check_structures(["lv+rv"])


def test_returned_arrays_are_writable(store):
    frames = store.frames([1])
    before = frames.copy()
    frames[:] = 0
    assert np.array_equal(store.frames([1]), before)


def test_a_store_that_was_compressed_is_refused(store):
    with h5py.File(store.path, "a") as file:
        data = file["frames"][:]
        del file["frames"]
        file.create_dataset("frames", data=data, compression="gzip")
    with pytest.raises(DataError, match=r"not a whole frame store \(frames is not contiguous\): write it again"):
        FrameStore(store.path)


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << at % 8
    path.write_bytes(data)


def everything(path):
    """All that a store holds."""
    store = FrameStore(path)
    stated = {name: value for name, value in vars(store).items() if name not in ("_rows", "label_frames")}
    labels = range(len(store.label_frames))
    pictures = [store.frames(range(len(store))), *(store.masks(labels, name) for name in store.structures)]
    originals = [store.original_mask(label, name) for label in labels for name in store.structures]
    return stated, [array.tobytes() for array in (store.label_frames, *pictures, *originals)]


@pytest.mark.parametrize(
    ("name", "word"), [("frames", "frame"), ("labels/maps", "label map"), ("labels/originals", "original mask")]
)
def test_a_changed_byte_is_refused_by_its_row(memory, name, word):
    """The rows are found without the package: HDF5 gives their places, or the place of their only chunk."""
    store = memory.store(lengths=(3, 1, 4))
    group, _, last = name.rpartition("/")
    with h5py.File(store.path) as file:
        rows, crc = file[name], file[f"{group}/crc_{last}"]
        if word == "original mask":
            chunks = [rows[str(label)].id.get_chunk_info(0) for label in range(len(rows))]
            spans = [(chunk.byte_offset, chunk.size) for chunk in chunks]
        else:
            spans = [(rows.id.get_offset() + 256 * row, 256) for row in range(len(rows))]
        sums = crc.id.get_offset()
    read = {
        "frame": lambda copy, row: copy.frames([row]),
        "label map": lambda copy, row: copy.masks([row], "lv"),
        "original mask": lambda copy, row: copy.original_mask(row, "lv"),
    }[word]
    whole, copy = [read(store, row) for row in range(len(spans))], memory.path / "copy.h5"
    for row, (first, length) in enumerate(spans):
        for at in (first, first + length // 2, first + length - 1, sums + 4 * row, sums + 4 * row + 3):
            copy.write_bytes(store.path.read_bytes())
            flip(copy, at)
            damaged = FrameStore(copy)
            with pytest.raises(
                DataError, match=r"copy\.h5: .* write it again with `alan prepare --over"
            ) as caught:
                read(damaged, row)
            if word != "original mask" or at >= sums:  # HDF5 also reports a wrong byte of a compressed mask
                assert f"copy.h5: {word} {row} is damaged (checksum)" in str(caught.value)
            assert "\n" not in str(caught.value)
            for other in {0, len(spans) - 1} - {row}:
                assert np.array_equal(read(damaged, other), whole[other])


def test_a_row_is_verified_at_its_first_read_only(store, monkeypatch):
    taken = []
    monkeypatch.setattr("alan.rows.checksums", lambda index, rows: taken.extend(index) or checksums(index, rows))
    for rows in ([3, 1], [1, 2, 2], [], [3]):
        store.frames(rows)
    assert taken == [3, 1, 2, 2]


@pytest.mark.parametrize("indices", [[26], [-1], [0.5], [[1, 2]]])
def test_frames_outside_the_store_are_refused(store, indices):
    with pytest.raises(ParameterError, match=r"outside 0\.\.25|must be integers"):
        store.frames(indices)


def test_sequences_are_selected_by_split_and_view(store):
    assert [s.id for s in store.select("train")] == ["s0", "s1", "s2", "s3"]
    assert [s.id for s in store.select("test", ("A2C",))] == ["s5"]
    assert [s.id for s in store.select(views=("A2C", "A4C"))] == [f"s{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("split", "views", "error", "message"),
    [
        ("tets", None, ParameterError, "unknown split 'tets': did you mean 'test'"),
        ("val", None, DataError, "split 'val' is empty; it holds test: 2, train: 4"),
        ("train", ["A3C"], ParameterError, "unknown view 'A3C': did you mean"),
        ("train", ["PLAX"], DataError, "no view PLAX in split 'train'; it holds A2C: 2, A4C: 2"),
    ],
)
def test_an_empty_selection_is_explained(store, split, views, error, message):
    with pytest.raises(error, match=message):
        store.select(split, views)


def test_labelled_frames_are_selected_by_phase(store):
    table = store.labelled()
    assert table["frame"].tolist() == [0, 4, 5, 8, 10, 16, 17, 19, 20, 25]
    assert table["label"].tolist() == [0, 2, 3, 5, 6, 8, 9, 10, 11, 13]
    assert table["phase"].tolist() == ["ED", "ES"] * 5
    assert table["sequence"].tolist() == [0, 0, 1, 1, 3, 3, 4, 4, 5, 5]
    assert table["id"].tolist()[:3] == ["s0", "s0", "s1"]
    assert len(store.labelled(phases=None)) == 14
    assert store.labelled(phases=None)["phase"].tolist()[:3] == ["ED", "", "ES"]
    assert store.labelled("test", ["A4C"], ["ES"])[["frame", "phase"]].to_numpy().tolist() == [[19, "ES"]]
    with pytest.raises(ParameterError, match="unknown phase 'EDD'"):
        store.labelled(phases=["EDD"])


def test_a_selection_without_annotations_is_refused(memory):
    store = memory.store(lengths=(5, 4, 1), splits=["train", "train", "test"])
    with pytest.raises(DataError, match="no annotated frame of phase ED or ES in split 'test'"):
        store.labelled("test")


def test_masks_are_read_at_both_resolutions(store, samples, memory):
    table = store.labelled(phases=None)
    originals = list(memory.archive())
    for name in ("lv", "la"):
        expected = np.concatenate([sample.masks[name] for sample in samples if sample.masks])
        assert np.array_equal(store.masks(table["label"], name), expected)
        flat = [mask for sample in originals if sample.masks for mask in sample.masks[name]]
        for label in table["label"]:
            assert np.array_equal(store.original_mask(label, name), flat[label])
    assert store.sequences[0].spacing == (0.5, 0.25)
    assert store.sequences[1].spacing is None
    with pytest.raises(DataError, match="no masks of 'myo'; it holds lv, la"):
        store.masks([0], "myo")
    with pytest.raises(ParameterError, match=r"index 14 is outside 0\.\.13"):
        store.original_mask(14, "lv")


def test_originals_are_kept_only_where_they_differ(memory):
    store = memory.store(shape=(16, 16))
    with h5py.File(store.path) as file:
        assert len(file["labels/originals"]) == 0
    expected = memory.archive(shape=(16, 16))[0].masks["lv"][1]
    assert np.array_equal(store.original_mask(1, "lv"), expected)


def test_a_store_can_be_pickled(store):
    expected = store.frames([3, 1])
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy.frames([3, 1]), expected)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        ok = np.array_equal(store.frames([3, 1]), expected)
        os.write(writer, b"y" if ok else b"n")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"y"
    os.close(reader)
    os.close(writer)


def test_a_store_that_another_program_writes_is_refused(store):
    with h5py.File(store.path, "a"):
        code = f"from alan.data.store.reader import FrameStore; FrameStore({str(store.path)!r})"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another program has it open for writing; wait, or close it there" in ran.stderr


def test_incomplete_and_foreign_files_are_refused(store, memory):
    with pytest.raises(DataError, match="no such frame store"):
        FrameStore(memory.path / "none.h5")
    text = memory.path / "text.h5"
    text.write_text("frames")
    with pytest.raises(DataError, match="not a whole frame store"):
        FrameStore(text)
    cut = memory.path / "cut.h5"
    data = store.path.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a whole frame store") as caught:
        FrameStore(cut)
    assert "\n" not in str(caught.value)
    other = memory.path / "other.h5"
    with h5py.File(other, "w") as file:
        file.attrs["schema"] = "alan-frames/99"
    with pytest.raises(DataError, match=f"schema is 'alan-frames/99' where '{SCHEMA}' is expected"):
        FrameStore(other)
    older = memory.path / "older.h5"
    with h5py.File(older, "w") as file:
        file.attrs["schema"] = b"alan-frames/2"
    with pytest.raises(DataError, match=r"'alan-frames/2' .* write it again with `alan prepare --overwrite true`"):
        FrameStore(older)
    with h5py.File(store.path, "a") as file:
        del file["labels/frame"]
    with pytest.raises(DataError, match="not a whole frame store"):
        FrameStore(store.path)


def test_a_damaged_store_is_refused_or_reads_the_same(store, memory):
    whole, rng, expected = store.path.read_bytes(), np.random.default_rng(0), everything(store.path)
    damaged, read = store.path, 0
    for n in range(60):
        data = bytearray(whole)
        place = int(rng.integers(len(data)))
        length = (1, 8)[n % 2]
        data[place : place + length] = rng.choice([b"\0" * length, b"\xff" * length, rng.bytes(length)])
        damaged.write_bytes(data)
        with contextlib.suppress(DataError):
            assert everything(damaged) == expected
            read += 1
    assert 10 < read < 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequences/start", [0, 5, 9, 10, 17, 21]),
        ("sequences/length", [5, 4, 1, 7, 3, 7]),
        ("sequences/ed", [0, 5, -1, 10, 17, 26]),
        ("labels/frame", [0, 1]),
        ("labels/frame", [*range(13), 26]),
        ("frames", np.zeros((25, 16, 16), np.uint8)),
    ],
)
def test_tables_that_contradict_the_frames_are_refused(store, name, value):
    with h5py.File(store.path, "a") as file:
        del file[name]
        file[name] = np.asarray(value)
        if not name.startswith("frames"):
            with pytest.raises(DataError, match=r"the checksum of its tables is wrong|arrays do not agree"):
                FrameStore(store.path)
        file.attrs["crc_tables"] = tables_checksum(file.attrs, read_tables(file))
    with pytest.raises(DataError, match=r"not a whole frame store \(.* do not agree\): write it again"):
        FrameStore(store.path)
