"""Bounds of the number of parcels, without PyTorch."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

#: Ids and the background (id K) must fit into uint8; 255 stays unused.
MAX_PARCELS = 254
#: Number of parcels K.
ParcelCount = Annotated[int, Interval(ge=2, le=MAX_PARCELS)]
