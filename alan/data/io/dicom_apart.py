"""Decoding of DICOM pixels in a separate process, since GDCM aborts its process on some damaged JPEG streams."""

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
#: Exit code of a process that refused the file; the reason is on its standard output.
REFUSED = 3
_PROCESS = "alan.data.io.dicom_process"


def decode_apart(path: Path) -> NDArray[Any]:
    """Decode the frames of a DICOM file (T, H, W), in the depth of the file.

    Raises:
        DataError: The file cannot be decoded.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "frames.npy")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", _PROCESS, str(path), str(out)]
        try:
            ran = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_LONGEST, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DataError(f"{path}: its decoder hangs; {GET_AGAIN}") from error
        if ran.returncode == REFUSED:
            raise DataError(ran.stdout)
        if ran.returncode:
            raise DataError(f"{path}: cannot be decoded (its decoder crashed); {GET_AGAIN}")
        frames: NDArray[Any] = np.load(out)
        return frames
