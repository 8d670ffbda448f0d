"""Names of the array types that many modules use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
#: Integers of any width, such as parcel ids.
AnyIntArray = NDArray[np.integer]
