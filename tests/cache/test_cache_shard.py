"""Parts and shards: resuming after a kill, foreign parts, full disks and several ranks."""

import errno
import json
import os
import resource
import shutil
import signal
from collections import namedtuple

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from alan.cache.layout import places
from alan.cache.reader import FeatureCache
from alan.cache.shard import Shard, begin, check_limit, finish, leftovers, part_path, shard_path
from alan.errors import CacheError, ParameterError

LAYOUT = {"cls": ((3,), np.float32), "tokens": ((2, 2, 3), np.float16)}
INDEX = np.array([3, 4, 5, 9, 10, 11, 20])


def values(index):
    """Rows that identify their frame."""
    index = np.asarray(index)
    cls = (index[:, None] * 10 + np.arange(3)).astype(np.float32)
    tokens = (index[:, None, None, None] + np.arange(12).reshape(2, 2, 3)).astype(np.float16)
    return {"cls": cls, "tokens": tokens}


def check(cache, index=INDEX):
    assert_array_equal(np.sort(cache.index), np.sort(index))
    shuffled = np.random.default_rng(0).permutation(np.repeat(index, 2))
    assert_array_equal(cache.read("cls", shuffled), values(shuffled)["cls"])
    assert_array_equal(cache.read("tokens", shuffled), values(shuffled)["tokens"])


def test_rows_in_any_order_are_read_back(tmp_path, manifest):
    out = tmp_path / "cache.h5"
    shard = Shard(part_path(out, 0), manifest, INDEX, LAYOUT)
    for rows in ([5, 0, 1], [3], [6, 2, 4]):
        shard.write(rows, values(INDEX[rows]))
    shard.close()
    assert not out.exists()
    finish(out)
    assert [path.name for path in tmp_path.iterdir()] == ["cache.h5"]
    check(FeatureCache(out))


def test_the_layout_is_contiguous_and_not_compressed(tmp_path, manifest):
    Shard(tmp_path / "x.part", manifest, INDEX, LAYOUT).close()
    with h5py.File(tmp_path / "x.part") as file:
        for name, (shape, dtype) in LAYOUT.items():
            assert file[name].shape == (7, *shape)
            assert file[name].dtype == dtype
            assert file[name].chunks is None
            assert file[name].compression is None


@pytest.mark.parametrize("kill_after", range(8))
def test_a_killed_shard_is_resumed(tmp_path, manifest, kill_after):
    """A child process is killed while writing rows; the parent writes the missing ones only."""
    out = tmp_path / "cache.h5"
    child = os.fork()
    if child == 0:
        shard = Shard(part_path(out, 0), manifest, INDEX, LAYOUT)
        for row in range(kill_after):
            shard.write([row], values(INDEX[[row]]))
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    shard = Shard(part_path(out, 0), manifest, INDEX, LAYOUT)
    assert_array_equal(shard.done, np.arange(7) < kill_after)
    left = np.flatnonzero(~shard.done)
    if len(left):
        shard.write(left, values(INDEX[left]))
    shard.close()
    finish(out)
    check(FeatureCache(out))


def test_a_row_counts_only_if_its_flag_is_set(tmp_path, manifest):
    part = part_path(tmp_path / "cache.h5", 0)
    shard = Shard(part, manifest, INDEX, LAYOUT)
    shard.write([0, 1], values(INDEX[:2]))
    shard.close()
    with pytest.raises(CacheError, match="5 frames are not written yet"):
        finish(tmp_path / "cache.h5")
    part.rename(tmp_path / "cache.h5")
    with pytest.raises(CacheError, match="not all frames are written"):
        FeatureCache(tmp_path / "cache.h5")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "e" * 64}, "backbone bbbbbbbbbbbb against eeeeeeeeeeee.*--overwrite"),
        ({"store": "e" * 64}, "store cccccccccccc against eeeeeeeeeeee.*--overwrite"),
        ({"parcels": "e" * 64}, "parcels none against eeeeeeeeeeee"),
        ({"features": ("cls",)}, "features cls,tokens against cls"),
        ({"settings": {"frames": 4, "split": None}}, "frames all against 4"),
    ],
)
def test_a_part_of_another_manifest_is_refused_with_the_remedy(tmp_path, manifest, change, words):
    Shard(tmp_path / "x.part", manifest, INDEX, LAYOUT).close()
    other = type(manifest)(**{**manifest.__dict__, **change})
    with pytest.raises(CacheError, match=words):
        Shard(tmp_path / "x.part", other, INDEX, LAYOUT)


def test_a_part_of_other_frames_or_processes_is_refused(tmp_path, manifest):
    Shard(tmp_path / "x.part", manifest, INDEX, LAYOUT).close()
    with pytest.raises(CacheError, match=r"was started for other frames.*--overwrite"):
        Shard(tmp_path / "x.part", manifest, INDEX[1:], LAYOUT)
    with pytest.raises(CacheError, match=r"was started with 1 processes, now 2.*--overwrite"):
        Shard(tmp_path / "x.part", manifest, INDEX, LAYOUT, rank=0, ranks=2)


def test_a_part_that_is_damaged_or_open_elsewhere_is_refused(tmp_path, manifest):
    (tmp_path / "x.part").write_bytes(b"no HDF5")
    with pytest.raises(CacheError, match=r"cannot be resumed.*--overwrite"):
        Shard(tmp_path / "x.part", manifest, INDEX, LAYOUT)


def write_ranks(out, manifest, ranks, *, finished=True):
    for rank, share in enumerate(np.array_split(INDEX, ranks)):
        shard = Shard(part_path(out, rank), manifest, share, LAYOUT, rank=rank, ranks=ranks)
        shard.write(np.arange(len(share)), values(share))
        shard.close()
    if finished:
        finish(out)


def test_shards_of_several_ranks_read_as_one(tmp_path, manifest):
    out = tmp_path / "cache.h5"
    write_ranks(out, manifest, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache.h5", *(f"cache.h5.rank{i}" for i in range(3))]
    check(FeatureCache(out))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in [out, *leftovers(out)]:
        path.rename(moved / path.name)
    check(FeatureCache(moved / "cache.h5"))


def test_a_rank_may_have_no_frames(tmp_path, manifest):
    write_ranks(tmp_path / "cache.h5", manifest, 9)
    check(FeatureCache(tmp_path / "cache.h5"))


def test_a_missing_or_foreign_shard_is_named(tmp_path, manifest):
    out = tmp_path / "cache.h5"
    write_ranks(out, manifest, 2)
    foreign = tmp_path / "foreign.h5"
    write_ranks(foreign, type(manifest)(**{**manifest.__dict__, "backbone": "e" * 64}), 2)
    shutil.copy(shard_path(foreign, 1), shard_path(out, 1))
    with pytest.raises(CacheError, match=r"cache.h5.rank1: belongs to another cache"):
        FeatureCache(out)
    shard_path(out, 1).unlink()
    with pytest.raises(CacheError, match=r"cache.h5.rank1: this shard of the cache is missing"):
        FeatureCache(out)


@pytest.mark.parametrize("renamed", range(4))
def test_a_cache_killed_during_renames_is_finished_later(tmp_path, manifest, renamed):
    out = tmp_path / "cache.h5"
    write_ranks(out, manifest, 3, finished=False)
    for rank in range(renamed):
        part_path(out, rank).rename(shard_path(out, rank))
    begin(out, overwrite=False)
    finish(out)
    check(FeatureCache(out))


def test_overwriting_deletes_parts_and_old_shards(tmp_path, manifest):
    out = tmp_path / "cache.h5"
    write_ranks(out, manifest, 3)
    (tmp_path / "cache.h5.notes").write_text("of the user")
    Shard(part_path(out, 0), manifest, INDEX[:2], LAYOUT).close()
    begin(out, overwrite=True)
    assert part_path(out, 0) not in leftovers(out)
    check(FeatureCache(out))
    write_ranks(out, manifest, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache.h5", "cache.h5.notes"]
    check(FeatureCache(out))


def test_too_little_space_is_refused_before_anything_is_written(tmp_path, manifest, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 2_000_000))
    with pytest.raises(CacheError, match=r"needs 5.4 MB, 2.0 MB are free in .*free some space"):
        Shard(tmp_path / "x.part", manifest, np.arange(100_000), LAYOUT)
    assert not list(tmp_path.iterdir())


def test_a_file_size_limit_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 1000))
    check_limit(tmp_path / "c.h5", 1000)
    with pytest.raises(OSError, match=r"File too large: '.*c\.h5'"):
        check_limit(tmp_path / "c.h5", 1001)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    check_limit(tmp_path / "c.h5", 10**15)


def test_a_disk_that_fills_up_while_space_is_reserved_leaves_nothing(tmp_path, manifest, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CacheError, match=r"needs 5.4 MB and the disk is full: free some space"):
        Shard(tmp_path / "x.part", manifest, np.arange(100_000), LAYOUT)
    assert not list(tmp_path.iterdir())


def test_disk_space_is_reserved_at_the_start(tmp_path, manifest):
    Shard(tmp_path / "x.part", manifest, np.arange(100_000), LAYOUT).close()
    assert (tmp_path / "x.part").stat().st_blocks * 512 >= 100_000 * (12 + 24)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_failed_write_keeps_finished_rows(tmp_path, manifest):
    part = tmp_path / "x.part"
    shard = Shard(part, manifest, INDEX, LAYOUT)
    shard.write([0, 1], values(INDEX[:2]))
    with open("/dev/full", "r+b", buffering=0) as full:  # noqa: PTH123
        whole, shard._raw = shard._raw, full
        with pytest.raises(CacheError, match=r"No space left on device.*are missing.*which continues"):
            shard.write([2], values(INDEX[[2]]))
    whole.close()
    shard.close()
    again = Shard(part, manifest, INDEX, LAYOUT)
    assert_array_equal(again.done, np.arange(7) < 2)
    again.close()


@pytest.mark.parametrize("change", [{"cls": np.zeros((1, 4), np.float32)}, {"cls": np.zeros((1, 3), np.float64)}])
def test_rows_of_another_shape_or_dtype_are_refused(tmp_path, manifest, change):
    shard = Shard(tmp_path / "x.part", manifest, INDEX, LAYOUT)
    with pytest.raises(ParameterError, match=r"cls is float.*give float32 \(1, 3\)"):
        shard.write([2], {**values(INDEX[[2]]), **change})
    assert not shard.done.any()
    shard.close()


def damage(path, name, row):
    """Flip a bit of a row."""
    with h5py.File(path) as file:
        offset, shape, dtype = places(file, path)[name]
    at = offset + row * int(np.prod(shape[1:])) * dtype.itemsize
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_damaged_row_is_refused_with_its_frame_and_others_are_read(tmp_path, manifest, ranks):
    out = tmp_path / "cache.h5"
    write_ranks(out, manifest, ranks)
    first = out if ranks == 1 else shard_path(out, 0)
    damage(first, "tokens", 1)
    cache = FeatureCache(out)
    with pytest.raises(CacheError, match=r"tokens of frame 4 is damaged \(checksum\).*--overwrite"):
        cache.read("tokens", [3, 4])
    assert_array_equal(cache.read("tokens", [3, 20]), values([3, 20])["tokens"])
    assert_array_equal(cache.read("cls", INDEX), values(INDEX)["cls"])
    damage(first, "index", 0)  # then the rows belong to other frames
    cache = FeatureCache(out)
    with pytest.raises(CacheError, match=r"cls of frame 2 is damaged"):
        cache.read("cls", cache.index)


def test_rows_damaged_by_a_power_failure_are_rewritten(tmp_path, manifest, caplog):
    part = part_path(tmp_path / "cache.h5", 0)
    shard = Shard(part, manifest, INDEX, LAYOUT)
    shard.write([0, 1, 2], values(INDEX[:3]))
    shard.close()
    damage(part, "cls", 1)
    shard = Shard(part, manifest, INDEX, LAYOUT)
    assert shard.done.tolist() == [True, False, True, False, False, False, False]
    assert "1 frames are damaged and are computed again" in caplog.text
    rows = np.flatnonzero(~shard.done)
    shard.write(rows, values(INDEX[rows]))
    shard.close()
    finish(tmp_path / "cache.h5")
    check(FeatureCache(tmp_path / "cache.h5"))


def false_claim(path, name, shape, dtype):
    """Replace a dataset by one in chunks that claims another shape or dtype."""
    with h5py.File(path, "r+") as file:
        del file[name]
        space = h5py.h5s.create_simple(shape)
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_layout(h5py.h5d.CHUNKED)
        settings.set_chunk((1,) * len(shape))
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, settings)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("index", (10**15,), np.int64),
        ("done", (10**15,), np.uint8),
        ("cls", (10**12, 3), np.float32),
        ("tokens", (7, 2, 2, 3), np.float16),  # not contiguous: its bytes are not at one place
        ("crc_cls", (7,), np.float32),
        ("done", (6,), np.uint8),
    ],
)
def test_false_sizes_are_refused_before_anything_is_allocated(tmp_path, manifest, name, shape, dtype):
    out = tmp_path / "cache.h5"
    write_ranks(out, manifest, 1)
    false_claim(out, name, shape, dtype)
    with pytest.raises(CacheError, match="not a whole feature cache"):
        FeatureCache(out)
    out.rename(part_path(out, 0))
    with pytest.raises(CacheError, match=r"not a whole feature cache|damaged"):
        Shard(part_path(out, 0), manifest, INDEX, LAYOUT)


def test_shards_that_hold_the_same_frames_are_refused(tmp_path, manifest):
    out = tmp_path / "cache.h5"
    write_ranks(out, manifest, 2)
    with h5py.File(out, "r+") as file:
        file.attrs["shards"] = json.dumps([shard_path(out, 0).name] * 2)
    with pytest.raises(CacheError, match="shards do not fit together"):
        FeatureCache(out)
