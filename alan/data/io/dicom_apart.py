"""Decoding of DICOM pixels in a separate process, since GDCM aborts its process on some damaged JPEG streams.

``python -m alan.data.io.dicom_apart FILE FRAMES.npy`` is that process; :func:`decode_apart` starts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.data.io.base import GET_AGAIN
from alan.errors import DataError

#: Seconds after which a decoder is assumed to hang.
_LONGEST = 600
_REFUSED = 3


def decode_apart(path: Path) -> NDArray[Any]:
    """Decode the frames of a DICOM file (T, H, W), in the depth of the file.

    Raises:
        DataError: The file cannot be decoded.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "frames.npy")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", __name__, str(path), str(out)]
        try:
            ran = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_LONGEST, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DataError(f"{path}: its decoder hangs; {GET_AGAIN}") from error
        if ran.returncode == _REFUSED:
            raise DataError(ran.stdout)
        if ran.returncode:
            raise DataError(f"{path}: cannot be decoded (its decoder crashed); {GET_AGAIN}")
        frames: NDArray[Any] = np.load(out)
        return frames


def main(path: Path, out: Path) -> int:
    """Decode a file in this process; if it is refused, print the reason and return an exit code."""
    from alan.data.io.base import FrameBuffer, reading
    from alan.data.io.dicom import open_dicom
    from alan.data.io.dicom_pixels import decode_frames

    try:
        with reading(path, "DICOM file") as source:
            frames = FrameBuffer(source)
            for frame in decode_frames(open_dicom(source), source):
                frames.append(frame)
            np.save(out, frames.stack())
    except DataError as error:
        sys.stdout.write(str(error))
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
