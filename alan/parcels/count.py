"""Bounds of the number of parcels and of k-means settings, without PyTorch."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Interval

from alan.errors import ParameterError

#: Ids and the background (id K) must fit into uint8; 255 stays unused.
MAX_PARCELS = 254
#: Number of parcels K.
ParcelCount = Annotated[int, Interval(ge=2, le=MAX_PARCELS)]


def check_kmeans(n_parcels: int, max_samples: int, n_components: int | None, *, whiten: bool) -> None:
    """Refuse settings of k-means parcels that contradict each other.

    Raises:
        ParameterError: There are fewer samples than parcels, or there are no components to whiten.
    """
    if max_samples < n_parcels:
        raise ParameterError(f"max_samples is {max_samples}: give at least n_parcels, {n_parcels}")
    if whiten and n_components is None:
        raise ParameterError("whiten is set without n_components: only principal components can be whitened")
