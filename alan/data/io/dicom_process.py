"""The process that decodes the pixels of one DICOM file, see :mod:`alan.data.io.dicom_apart`.

``python -m alan.data.io.dicom_process FILE FRAMES.npy``
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from alan.data.io.base import FrameBuffer, reading
from alan.data.io.dicom import open_dicom
from alan.data.io.dicom_apart import REFUSED
from alan.data.io.dicom_pixels import decode_frames
from alan.errors import DataError


def main(path: Path, out: Path) -> int:
    """Decode a file in this process; if it is refused, print the reason and return an exit code."""
    try:
        with reading(path, "DICOM file") as source:
            frames = FrameBuffer(source)
            for frame in decode_frames(open_dicom(source), source):
                frames.append(frame)
            np.save(out, frames.stack())
    except DataError as error:
        sys.stdout.write(str(error))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
