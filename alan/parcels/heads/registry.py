"""Registry of token heads. A new head is a file of its own and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from alan.errors import CheckpointError, ParameterError, nearest
from alan.parcels.heads.base import TokenHead
from alan.parcels.heads.kmeans import KMeansHead
from alan.parcels.heads.raptor import RaptorHead
from alan.parcels.heads.smooseg import SmooSegHead

#: Heads by the name that files use.
HEADS: dict[str, type[TokenHead]] = {head.kind: head for head in (RaptorHead, KMeansHead, SmooSegHead)}


def build_head(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> TokenHead:
    """Build a head from :meth:`TokenHead.settings` and load its state dict.

    Sizes are compared with the tensors before anything is allocated.

    Raises:
        CheckpointError: The kind is unknown, or the tensors do not fit the settings.
    """
    try:
        arguments = dict(settings)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the settings of the head are {settings!r}: export the parcels again") from error
    kind = arguments.pop("kind", None)
    if not isinstance(kind, str) or kind not in HEADS:
        raise CheckpointError(f"unknown kind of head {kind!r}: {nearest(str(kind), HEADS)}")
    largest = max((side for tensor in state.values() for side in tensor.shape), default=0)
    for name, value in arguments.items():
        if isinstance(value, int) and value > largest:
            raise CheckpointError(
                f"the tensors of the head do not fit its settings: {name} is {value}, the largest tensor has "
                f"{largest} rows: export the parcels again"
            )
    try:
        head = HEADS[kind](**arguments)
        head.load_state_dict(dict(state))
    except (TypeError, RuntimeError, ParameterError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the tensors of the head do not fit its settings {dict(settings)}: {reason}: export the parcels again"
        ) from error
    return head
