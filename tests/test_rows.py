import struct
import zlib

import numpy as np
import pytest

from alan.errors import CacheError, DataError
from alan.rows import CheckedRows, check_name, checksums, map_rows

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "values",
    [
        RANDOM.integers(0, 256, (5, 4, 3), np.uint8),
        RANDOM.normal(size=(5, 7)).astype(np.float16),
        RANDOM.random((5, 2, 2)) < 0.5,
        RANDOM.normal(size=(5,)),
        RANDOM.integers(0, 256, (3, 5, 4), np.uint8).transpose(1, 0, 2),  # not contiguous
    ],
)
def test_the_checksum_of_a_row_covers_its_number_and_its_bytes(values):
    index = np.array([0, 3, 4, -1, 2**40])
    expected = [zlib.crc32(struct.pack("<q", n) + row.tobytes()) for n, row in zip(index, values, strict=True)]
    assert checksums(index, values).tolist() == expected
    assert checksums(index[:0], values[:0]).tolist() == []


def test_checksums_lie_beside_their_rows():
    assert [check_name(name) for name in ("cls", "labels/maps", "a/b/c")] == [
        "crc_cls",
        "labels/crc_maps",
        "a/b/crc_c",
    ]


def test_rows_are_read_in_any_order_and_damage_is_named(tmp_path):
    path, index = tmp_path / "rows", np.array([7, 9, 4])
    values = RANDOM.integers(0, 256, (3, 6), np.uint8)
    crc = checksums(index, values)
    crc[1] += 1
    path.write_bytes(b"head" + values.tobytes() + crc.tobytes())
    places = (4, (3, 6), np.dtype(np.uint8)), (22, (3,), np.dtype(np.uint32))
    rows = CheckedRows(path, "cls of frame", index, *places, kind=CacheError, remedy="write it again")
    assert np.array_equal(rows.read(np.array([2, 0, 2])), values[[2, 0, 2]])
    with pytest.raises(CacheError, match=r"rows: cls of frame 9 is damaged \(checksum\): write it again$"):
        rows.read(np.array([0, 1]))
    assert rows.read(np.array([], int)).shape == (0, 6)


def test_a_file_that_became_shorter_is_refused(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"123")
    with pytest.raises(DataError, match=r"rows: cannot be read \(.*\); write it again$"):
        map_rows(path, (0, (2, 4), np.dtype(np.uint8)), DataError, "write it again")
