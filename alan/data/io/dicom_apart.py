"""Decoding of DICOM pixels in a separate process, because GDCM aborts on some damaged JPEG streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alan.data.io.base import GET_AGAIN
from alan.data.io.frames import DecodedFrame
from alan.errors import DataError

#: Time in seconds after which a decoder is assumed to hang.
_LONGEST = 600
#: Exit code of a process that refuses the file; it prints the reason on standard output.
REFUSED = 3
_PROCESS = "alan.data.io.dicom_process"


class DecodedApart:
    """The frames of a DICOM file, decoded by a separate process into a temporary file.

    Args:
        path: The file.

    Raises:
        DataError: The file cannot be decoded.
    """

    def __init__(self, path: Path) -> None:
        self._folder = tempfile.TemporaryDirectory()  # removed with this object
        out = Path(self._folder.name, "frames")
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
        self._frames, self._kind = out, json.loads(ran.stdout)

    def frames(self) -> Iterator[DecodedFrame]:
        """Read the frames, in the depth of the file."""
        for frame in np.memmap(self._frames, self._kind["dtype"], "r", shape=tuple(self._kind["shape"])):
            yield DecodedFrame(np.array(frame))
