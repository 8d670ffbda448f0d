"""The process that decodes the pixels of one DICOM file, see :mod:`alan.data.io.dicom_apart`.

``python -m alan.data.io.dicom_process FILE FRAMES`` writes the frames and prints their shape and type as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from alan.data.io.base import reading
from alan.data.io.dicom import open_dicom
from alan.data.io.dicom_apart import REFUSED
from alan.data.io.dicom_pixels import decode_frames
from alan.errors import DataError


def main(path: Path, out: Path) -> int:
    """Decode a file in this process; if it is refused, print the reason and return an exit code."""
    shapes, count = set[tuple[tuple[int, ...], str]](), 0
    try:
        with reading(path, "DICOM file") as source, out.open("wb") as file:
            for frame in decode_frames(open_dicom(source), source):
                shapes.add((frame.grey.shape, frame.grey.dtype.str))
                file.write(frame.grey.tobytes())
                count += 1
            if len(shapes) != 1:
                raise DataError(f"{path}: holds frames of {len(shapes)} sizes; one size is needed")
    except DataError as error:
        sys.stdout.write(str(error))
        return REFUSED
    ((shape, dtype),) = shapes
    sys.stdout.write(json.dumps({"shape": [count, *shape], "dtype": dtype}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
