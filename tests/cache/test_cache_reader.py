"""CacheReader: order of frames, invalid requests, damaged files and pickling."""

import multiprocessing
import pickle
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from alan.cache.reader import FeatureCache
from alan.cache.shard import Shard, finish, part_path
from alan.errors import CacheError

INDEX = np.array([2, 5, 6, 40])
CLS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def path(tmp_path, manifest):
    out = tmp_path / "cache.h5"
    shard = Shard(part_path(out, 0), manifest, INDEX, {"cls": ((3,), np.float32)})
    shard.write(np.arange(4), {"cls": CLS})
    shard.close()
    finish(out)
    return out


def test_frames_are_returned_in_the_requested_order(path):
    cache = FeatureCache(path)
    assert_array_equal(cache.read("cls", [40, 2, 2, 6]), CLS[[3, 0, 0, 2]])
    assert cache.read("cls", []).shape == (0, 3)
    assert cache.read("cls", [5]).flags.writeable  # a copy, not the file
    assert len(cache) == 4
    assert "cls of 4 frames" in repr(cache)


@pytest.mark.parametrize("absent", [0, 3, 41, -1])
def test_a_missing_frame_is_named(path, absent):
    with pytest.raises(CacheError, match=rf"frame {absent} and 1 more is not in the cache.*frames all"):
        FeatureCache(path).read("cls", [5, absent, 2, 99])
    assert_array_equal(FeatureCache(path).missing([99, 5, absent]), [99, absent])


def test_missing_features_and_invalid_indices_are_refused(path):
    with pytest.raises(CacheError, match=r"has no tokens, only cls.*with tokens in features"):
        FeatureCache(path).read("tokens", [2])
    with pytest.raises(CacheError, match=r"give whole numbers \(n,\)"):
        FeatureCache(path).read("cls", [[2]])
    with pytest.raises(CacheError, match=r"give whole numbers \(n,\)"):
        FeatureCache(path).read("cls", [2.0])


@pytest.mark.parametrize(("name", "mine"), [("backbone", "b" * 12), ("parcels", "none"), ("store", "c" * 12)])
def test_another_origin_is_refused_with_both_fingerprints(path, manifest, name, mine):
    other = SimpleNamespace(fingerprint="0123456789abcdef")
    with pytest.raises(
        CacheError, match=f"written with {name} {mine}, given {name} 0123456789ab: give the {name}"
    ):
        FeatureCache(path, **{name: other})
    FeatureCache(path, **{name: SimpleNamespace(fingerprint=getattr(manifest, name))})


def test_missing_unfinished_and_foreign_files_are_refused(path):
    with pytest.raises(CacheError, match=r"no such feature cache; write it with `alan cache`"):
        FeatureCache(path.with_name("other.h5"))
    path.with_name("begun.h5.part").write_bytes(b"")
    with pytest.raises(CacheError, match=r"not finished \(begun.h5.part is there\)"):
        FeatureCache(path.with_name("begun.h5"))
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = "alan-features/0"
    with pytest.raises(CacheError, match="schema is 'alan-features/0', this version reads 'alan-features/3'"):
        FeatureCache(path)
    content = path.read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CacheError, match=r"cache.h5: not a whole feature cache"):
            FeatureCache(path)


@pytest.mark.parametrize("lost", ["features", "backbone"])
def test_a_damaged_manifest_is_refused(path, lost):
    with h5py.File(path, "r+") as file:
        del file.attrs[lost]
    with pytest.raises(CacheError, match="manifest is damaged"):
        FeatureCache(path)


@pytest.mark.parametrize("lost", ["index", "done"])
def test_a_damaged_table_is_refused(path, lost):
    with h5py.File(path, "r+") as file:
        del file[lost]
    with pytest.raises(CacheError, match="not a whole feature cache"):
        FeatureCache(path)


def test_pickled_and_forked_caches_can_be_read(path):
    cache = FeatureCache(path)
    before = pickle.dumps(cache)
    cache.read("cls", [2])
    assert len(pickle.dumps(cache)) == len(before)  # the features stay in the file
    assert_array_equal(pickle.loads(before).read("cls", [40, 5]), CLS[[3, 1]])
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.starmap(cache.read, [("cls", [40]), ("cls", [2])] * 4):
            assert found.shape == (1, 3)
