import zipfile

import numpy as np
import pytest
import torch

from alan.arrays import evenly_spread, load_arrays
from alan.backbone.checkpoint import load_plain
from alan.errors import CheckpointError, DataError

RANDOM = np.random.default_rng(0)
MAPS = RANDOM.integers(0, 9, (6, 8, 8), np.uint8)
ARRAYS = {"key": np.array("a" * 40), "maps": MAPS, "values": RANDOM.normal(size=9)}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_refused_or_read_the_same(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    whole, path, refused = (tmp_path / "a.npz").read_bytes(), tmp_path / "a.npz", 0
    for place in range(0, len(whole), 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            found = load_arrays(path, ARRAYS)
        except DataError:
            refused += 1
        else:
            assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())
    assert refused > 0.3 * len(whole)
    with pytest.raises(DataError, match=r"b\.npz: cannot be read \(.*\): start again with --overwrite true"):
        load_arrays(tmp_path / "b.npz")


def test_a_part_that_cannot_be_decompressed_is_refused(tmp_path):
    """The directory at the end names a compression for parts that are stored as they are."""
    np.savez(tmp_path / "a.npz", **ARRAYS)
    torch.save({"maps": torch.zeros(9)}, tmp_path / "a.pt")
    for path in tmp_path.iterdir():
        whole = bytearray(path.read_bytes())
        place = whole.index(b"PK\x01\x02")
        whole[place + 10] = zipfile.ZIP_DEFLATED
        path.write_bytes(whole)
    with pytest.raises(DataError, match="cannot be read"):
        load_arrays(tmp_path / "a.npz")
    with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
        load_plain(tmp_path / "a.pt")


def test_evenly_spread_positions_are_distinct_and_reach_both_ends():
    for length in range(20):
        assert evenly_spread(length, None).tolist() == list(range(length))
        for n in range(1, 25):
            chosen = evenly_spread(length, n)
            assert len(np.unique(chosen)) == len(chosen) == min(n, length)
            if n > 1 and length > 1:
                assert (chosen[0], chosen[-1]) == (0, length - 1)
                assert np.ptp(np.diff(chosen)) <= 1
    assert evenly_spread(9, 1) == 4
