"""Names of the array types that many modules use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
#: Integers of any width, such as parcel ids.
AnyIntArray = NDArray[np.integer]
#: Floating-point numbers of any width.
AnyFloatArray = NDArray[np.floating]
