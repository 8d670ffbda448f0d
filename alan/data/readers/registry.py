"""Readers by name."""

from __future__ import annotations

import inspect
import os
from typing import Any

from alan.data.readers.acdc import Acdc
from alan.data.readers.base import EchoDataset
from alan.data.readers.camus import Camus
from alan.data.readers.coco import Coco
from alan.data.readers.echonet import EchoNetDynamic
from alan.data.readers.folder import FrameFolder
from alan.data.readers.segments_ai import SegmentsAi
from alan.data.readers.tmed import Tmed2
from alan.errors import ParameterError, nearest

#: Kind, as ``alan prepare`` takes it, to its reader.
READERS: dict[str, type[EchoDataset]] = {
    "echonet": EchoNetDynamic,
    "camus": Camus,
    "tmed": Tmed2,
    "acdc": Acdc,
    "folder": FrameFolder,
    "coco": Coco,
    "segments": SegmentsAi,
}


def open_dataset(kind: str, root: str | os.PathLike[str], **options: Any) -> EchoDataset:
    """Open an archive by the name of its reader.

    Args:
        kind: ``echonet``, ``camus``, ``tmed``, ``acdc``, ``folder``, ``coco`` or ``segments``.
        root: folder of the archive.
        **options: options of that reader's constructor, e.g. ``split`` for CAMUS.

    Raises:
        ParameterError: unknown kind or option (the message offers the nearest name), or a value of another type.
        DataError: the archive is missing or incomplete.
    """
    if kind not in READERS:
        raise ParameterError(f"unknown kind of data set {kind!r}: {nearest(kind, READERS)}")
    parameters = inspect.signature(READERS[kind]).parameters
    known = [name for name in parameters if name != "root"]
    for name, value in options.items():
        if name not in known:
            hint = nearest(name, known) if known else "it has no options"
            raise ParameterError(f"data set {kind!r} has no option {name!r}: {hint}")
        if wanted := _wanted(parameters[name], value):
            raise ParameterError(f"option {name!r} of data set {kind!r} is {value!r}: give {wanted}")
    return READERS[kind](root, **options)


def _wanted(parameter: inspect.Parameter, value: Any) -> str:
    """What a reader's option asks for where the value is not of that type, else an empty text."""
    if isinstance(parameter.default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(parameter.default, int):
        return "" if type(value) is int and value >= 0 else "a whole number, 0 or more"
    if parameter.annotation in ("str | None", "str | os.PathLike[str] | None"):
        return "" if value is None or isinstance(value, str | os.PathLike) else "a text"
    return ""
