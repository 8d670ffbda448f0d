import numpy as np
import pytest

from alan.arrays import load_arrays
from alan.errors import DataError

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
