import csv
import errno
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import warnings
import zlib
from collections import namedtuple

import h5py
import numpy as np
import pytest

from alan.data.preprocessing import Preprocessing
from alan.data.readers.base import Failure
from alan.data.sample import Record
from alan.data.store import part_file as partial
from alan.data.store.reader import FrameStore
from alan.data.store.writer import _Decoder, prepare
from alan.errors import AlanWarning, DataError, LockError, ParameterError, SkippedError, SplitLeakError
from alan.files import fingerprint

SMALL = Preprocessing(16)


def run(archive, out, **options):
    return prepare(archive, out, SMALL, progress=False, **{"workers": 0, **options})


def test_the_file_has_the_documented_layout(memory):
    store = memory.store()
    with h5py.File(store.path) as file:
        assert file.attrs["schema"] == b"alan-frames/3"
        frames = file["frames"]
        assert (frames.shape, frames.dtype, frames.chunks) == ((26, 16, 16), np.uint8, None)
        for row, crc in enumerate(file["crc_frames"]):  # by zlib alone
            assert crc == zlib.crc32(row.to_bytes(8, "little") + frames[row].tobytes())
        for row, crc in enumerate(file["labels/crc_originals"]):
            original = file[f"labels/originals/{row}"][:]
            assert crc == zlib.crc32(row.to_bytes(8, "little") + original.tobytes())
        assert file["labels/maps"].shape == (14, 16, 16)
        assert sorted(file["labels/originals"], key=int) == [str(label) for label in range(14)]
        assert file["labels/originals/3"].shape == (20, 30)
        assert np.isnan(file["sequences/spacing"][1]).all()
        assert file["sequences/ed"][2] == -1


def test_several_workers_write_the_same_file(memory):
    archive = memory.archive()
    run(archive, memory.path / "none.h5")
    run(archive, memory.path / "two.h5", workers=2)
    assert memory.contents(memory.path / "none.h5") == memory.contents(memory.path / "two.h5")


def test_a_finished_store_is_reused(memory):
    archive = memory.archive()
    first = run(archive, memory.path / "a.h5")
    assert archive.decoded() == list(range(6))
    assert run(archive, memory.path / "a.h5").fingerprint == first.fingerprint
    assert archive.decoded() == list(range(6))
    assert not list(memory.path.glob("*.part"))


@pytest.mark.parametrize("change", ["size", "aspect", "frames", "archive"])
def test_a_store_of_another_archive_is_refused(memory, change):
    out = memory.path / "a.h5"
    old = run(memory.archive(), out)
    archive = memory.archive(lengths=(5, 4)) if change == "archive" else memory.archive()
    preprocessing = {"size": Preprocessing(24), "aspect": Preprocessing(16, keep_aspect=True)}.get(change, SMALL)
    frames = "annotated" if change == "frames" else "all"
    with pytest.raises(DataError, match=r"holds Memory .* not Memory .* --overwrite true"):
        prepare(archive, out, preprocessing, frames, workers=0, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AlanWarning)  # about the sample without annotations
        new = prepare(archive, out, preprocessing, frames, workers=0, progress=False, overwrite=True)
    assert new.fingerprint != old.fingerprint
    assert new.preprocessing == preprocessing


def test_a_damaged_store_is_replaced_on_request_only(memory):
    out = run(memory.archive(), memory.path / "a.h5").path
    expected = memory.contents(out)
    with h5py.File(out, "r+") as file:
        file.attrs["schema"] = b"alan-frames/2"  # an earlier version
    with pytest.raises(DataError, match="write it again with `alan prepare --overwrite true`"):
        run(memory.archive(), out)
    assert memory.contents(run(memory.archive(), out, overwrite=True).path) == expected


def test_a_run_killed_anywhere_resumes(memory):
    expected = memory.contents(run(memory.archive(), memory.path / "whole.h5").path)
    out = memory.path / "a.h5"
    part = memory.path / "a.h5.part"
    memory.archive().log.unlink()
    for sample in (2, 4):
        child = multiprocessing.get_context("fork").Process(target=run, args=(memory.archive(kill_at=sample), out))
        child.start()
        child.join()
        assert child.exitcode == -9
        assert part.is_file()
        assert not out.exists()
    archive = memory.archive()
    run(archive, out)
    assert archive.decoded() == [0, 1, 2, 2, 3, 4, 4, 5]  # only the sample that was in work is decoded again
    assert memory.contents(out) == expected
    assert not part.exists()


def test_a_truncated_part_is_continued(memory, monkeypatch):
    archive = memory.archive(lengths=(2, 1, 3), shape=(4, 5))
    small = Preprocessing(4)
    out = memory.path / "a.h5"
    with monkeypatch.context() as patch:
        patch.setattr("alan.data.store.writer._write", lambda *_: None)
        patch.setattr(partial.PartFile, "remove", lambda self: None)
        patch.setattr("alan.data.store.writer.FrameStore", lambda _: None)
        prepare(archive, out, small, workers=0, progress=False)
    part = memory.path / "a.h5.part"
    whole = part.read_bytes()
    key = json.loads(whole.splitlines()[0])["key"]
    decoded = [_Decoder(archive, small, annotated=False)[index] for index in range(3)]
    ends = []
    for cut in range(0, len(whole) + 1, 3):
        part.write_bytes(whole[:cut])
        log = partial.PartFile(part, key)
        ends.append(len(log.entries))
        for entry in decoded[ends[-1] :]:
            log.append(*entry)
        log.close()
        assert part.read_bytes() == whole
    assert set(ends) >= {0, 1, 2}
    assert ends == sorted(ends)


def test_a_damaged_part_is_refused_or_continued_to_the_same_store(memory):
    expected = memory.contents(run(memory.archive(), memory.path / "whole.h5").path)
    out, part = memory.path / "a.h5", memory.path / "a.h5.part"
    child = multiprocessing.get_context("fork").Process(target=run, args=(memory.archive(kill_at=3), out))
    child.start()
    child.join()
    whole = part.read_bytes()
    places = [match.end() for match in re.finditer(rb"\n[0-9a-f]{8} \{.*\n", whole)]  # where the pixels begin
    lines = [match.start() + 12 for match in re.finditer(rb"\n[0-9a-f]{8} \{", whole)]
    assert len(places) == len(lines) == 3
    for at in (*places, len(whole) - 2, len(whole) - 1, *lines, *(line - 8 for line in lines), 40):
        part.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        if at in (*places, len(whole) - 2, 40):  # the pixels, and the key of the archive
            with pytest.raises(DataError, match=r"a\.h5\.part: .*(delete the file|move it away)"):
                run(memory.archive(), out)
        else:
            assert memory.contents(run(memory.archive(), out).path) == expected
            out.unlink()


def test_a_part_of_another_archive_is_refused(memory):
    out = memory.path / "a.h5"
    child = multiprocessing.get_context("fork").Process(target=run, args=(memory.archive(kill_at=1), out))
    child.start()
    child.join()
    with pytest.raises(DataError, match=r"begun for Memory .*\(size=16.*not for .*size=24.*delete the file"):
        prepare(memory.archive(), out, Preprocessing(24), workers=0, progress=False)
    (memory.path / "b.h5.part").write_text("my notes\n")
    with pytest.raises(DataError, match="not a file of this version of `alan prepare`"):
        run(memory.archive(), memory.path / "b.h5")
    assert (memory.path / "b.h5.part").read_text() == "my notes\n"
    assert prepare(memory.archive(), out, Preprocessing(24), workers=0, progress=False, overwrite=True).size == 24


@pytest.mark.parametrize("workers", [0, 2])
def test_undecodable_samples_are_skipped_and_counted(memory, workers):
    archive, listed = memory.archive(broken=(1, 3)), memory.path / "failures.csv"
    with pytest.warns(
        AlanWarning, match=r"skipped 2 of 6 files, listed in .*failures\.csv; the first: s1: broken"
    ):
        store = run(archive, memory.path / "a.h5", workers=workers)
    rows = [["file", "reason", "output"], ["s1", "broken", "a.h5"], ["s3", "broken", "a.h5"]]
    with listed.open() as file:
        assert list(csv.reader(file)) == rows
    assert [failure.file for failure in archive.failures] == ["s1", "s3"]
    with pytest.warns(AlanWarning, match="skipped 1 of 6"):
        run(memory.archive(broken=(0,)), memory.path / "b.h5")
    with listed.open() as file:
        assert list(csv.reader(file)) == [*rows, ["s0", "broken", "b.h5"]]
    run(memory.archive(), memory.path / "b.h5", overwrite=True)
    with listed.open() as file:
        assert list(csv.reader(file)) == rows
    assert [s.id for s in store.sequences] == ["s0", "s2", "s4", "s5"]
    assert store.skipped == {"samples that could not be decoded": 2}
    assert store.labelled(phases=None)["frame"].tolist()[:3] == [0, 1, 4]


def test_samples_skipped_while_decoding_are_counted_once(memory):
    archive = memory.archive()
    load, listed = archive._load, [Failure(f"{name}.avi", "no such file", "rows without a video") for name in "ab"]
    late = Failure("c.avi", "has 3 frames", "tracings beyond the end")

    def and_skip(index):
        if index == 4:
            archive.failures.append(late)
        return load(index)

    archive._load = and_skip
    for workers in (0, 2):
        archive.failures = list(listed)
        with pytest.warns(AlanWarning, match="skipped 2 of 8 files and found 1 other problem,"):
            store = run(archive, memory.path / f"{workers}.h5", workers=workers)
        assert store.skipped == {"rows without a video": 2, "tracings beyond the end": 1}
        assert archive.failures == [*listed, late]


def test_strict_writes_the_store_and_fails(memory):
    out = memory.path / "a.h5"
    with (
        pytest.warns(AlanWarning),
        pytest.raises(SkippedError, match=r"skipped 1 samples that could not be decoded"),
    ):
        run(memory.archive(broken=(1,)), out, strict=True)
    assert len(FrameStore(out).sequences) == 5
    with pytest.raises(SkippedError, match=r"failures\.csv beside it lists them"):
        run(memory.archive(broken=(1,)), out, strict=True)  # the store is there already
    assert run(memory.archive(), memory.path / "b.h5", strict=True).skipped == {}


def test_a_second_process_is_refused_by_name(memory):
    out = memory.path / "a.h5"
    code = (
        "import sys, pathlib\nfrom alan.locks import lock_file\n"
        "with lock_file(pathlib.Path(sys.argv[1])):\n    print('locked', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(LockError, match=rf"a\.h5: process {other.pid} of "):
            run(memory.archive(), out)
        other.communicate()
    assert len(run(memory.archive(), out)) == 26
    assert sorted(path.name for path in memory.path.iterdir()) == ["a.h5", "archive"]


def test_a_store_of_a_simulated_archive_is_marked_simulated(memory):
    assert not memory.store("real.h5").simulated
    marker = memory.path / "archive" / "simulation.json"
    marker.write_text('{"complete": true}')
    store = memory.store("a.h5")
    assert (store.name, store.simulated) == ("simulated Memory", True)
    marker.write_text('{"complete": false}')
    with pytest.raises(DataError, match="a simulated archive that is not complete"):
        memory.archive()


def test_an_archive_without_readable_samples_is_refused(memory):
    with pytest.raises(DataError, match="none of 2 samples can be used; the first: s0: broken"):
        run(memory.archive(lengths=(5, 4), broken=(0, 1)), memory.path / "a.h5")
    assert not list(memory.path.glob("a.h5*"))


def test_annotated_frames_are_stored_on_request(memory):
    with pytest.warns(AlanWarning, match="skipped 1 of 6 files, .* the first: s2: no annotated frame"):
        store = memory.store("few.h5", frames="annotated")
    every = memory.store()
    table, full = store.labelled(phases=None), every.labelled(phases=None)
    assert len(store) == len(table) == len(full) == 14
    assert table["phase"].tolist() == full["phase"].tolist()
    assert np.array_equal(store.frames(table["frame"]), every.frames(full["frame"]))
    assert np.array_equal(store.masks(table["label"], "lv"), every.masks(full["label"], "lv"))
    assert store.skipped == {"samples without an annotated frame": 1}


def test_a_leaking_split_is_refused_unless_it_is_named(memory):
    splits = ["train", "test", "train", "train", "test", "test"]
    archive = memory.archive(splits=splits, leaks="images of one study in two splits")
    assert run(archive, memory.path / "named.h5").leaks == "images of one study in two splits"
    archive.leaks = ""
    with pytest.raises(SplitLeakError, match="patient 'p0' is in two splits"):
        run(archive, memory.path / "a.h5")
    assert not list(memory.path.glob("a.h5*"))


def test_invalid_arguments_are_refused(memory):
    archive = memory.archive()
    with pytest.raises(ParameterError, match="frames is 'al': did you mean 'all'"):
        prepare(archive, memory.path / "a.h5", SMALL, "al")
    with pytest.raises(ParameterError, match="workers is -1: give a whole number of at least 0"):
        run(archive, memory.path / "a.h5", workers=-1)
    archive.records = (Record("x", "p", "training"),)
    with pytest.raises(DataError, match="unknown split 'training': did you mean 'train'"):
        run(archive, memory.path / "a.h5")
    archive.records = ()
    with pytest.raises(DataError, match="the archive has no samples"):
        run(archive, memory.path / "a.h5")
    assert not list(memory.path.glob("a.h5*"))


def test_the_fingerprint_depends_on_the_content(memory):
    plain = memory.store("a.h5")
    with pytest.warns(AlanWarning, match="skipped 1"):
        broken = memory.store("b.h5", broken=(5,))
    assert plain.source == broken.source
    assert plain.fingerprint != broken.fingerprint
    rows = [[f"s{i}", length] for i, length in enumerate((5, 4, 1, 7, 3, 6))]
    with h5py.File(plain.path) as file:
        assert plain.fingerprint == fingerprint([file.attrs["source"].decode(), rows])


def test_a_full_disk_while_decoding_keeps_finished_parts(memory, monkeypatch):
    out, written = memory.path / "a.h5", []
    pwrite = os.pwrite

    def full(fd, data, place):
        written.append(len(data))
        if len(written) == 5:  # the first one names the owner of the lock
            return pwrite(fd, data[:100], place)
        if len(written) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, place)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"no space left: 0\.0 MB more are needed for sample 3, .* the 2 samples"):
        run(memory.archive(), out)
    assert not out.exists()
    monkeypatch.undo()
    archive = memory.archive()
    archive.log.unlink()
    run(archive, out)
    assert archive.decoded() == [2, 3, 4, 5]
    assert memory.contents(out) == memory.contents(memory.store("b.h5").path)


@pytest.mark.parametrize("late", [False, True])
def test_a_full_disk_for_the_store_is_reported(memory, monkeypatch, late):
    usage = namedtuple("usage", "free")
    free = [10**9] if late else []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free.pop() if free else 0))
    if late:
        monkeypatch.setattr("alan.data.store.writer._fill", _no_space)
    out = memory.path / "a.h5"
    with pytest.raises(DataError, match=r"no space left: the store needs about 1\.0 MB"):
        run(memory.archive(), out)
    assert [path.name for path in memory.path.glob("*a.h5*")] == ["a.h5.part"]
    monkeypatch.undo()
    run(memory.archive(), out)
    assert memory.archive().decoded() == list(range(6))


def _no_space(*_):
    raise RuntimeError("Unable to flush file's cached information")


def test_a_full_disk_is_reported(memory):
    disk = memory.path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        for n, message in ((40, "the store needs about"), (400, "MB more are needed for sample")):
            archive = memory.archive(lengths=(n,) * 6, shape=(96, 96))
            with pytest.raises(DataError, match=message):
                prepare(archive, disk / f"{n}.h5", Preprocessing(96), workers=0, progress=False)
            assert [path.name for path in disk.iterdir()] == [f"{n}.h5.part"]
            (disk / f"{n}.h5.part").unlink()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.real
def test_real_camus_frames_survive_the_round_trip(memory, real_camus):
    from alan.data.readers.camus import Camus

    archive = Camus(real_camus)
    archive.records = archive.records[:4]
    store = prepare(archive, memory.path / "camus.h5", Preprocessing(112), workers=2, progress=False)
    assert [s.length for s in store.sequences] == [2, 2, 2, 2]
    for row in store.labelled().itertuples():
        sample = archive[row.sequence]
        place = 0 if row.phase == "ED" else 1
        assert np.array_equal(store.original_mask(row.label, "lv"), sample.masks["lv"][place])
        restored = store.preprocessing.restore(store.masks([row.label], "lv"), sample.frames.shape[1:])[0]
        both = (restored & sample.masks["lv"][place]).sum()
        assert 2 * both / (restored.sum() + sample.masks["lv"][place].sum()) > 0.97
