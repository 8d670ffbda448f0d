"""Readers by the kind of archive. A new reader needs its own module, a line here and its public name."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alan.data.readers.base import EchoDataset
from alan.errors import AlanError, DataError, ParameterError, SplitLeakError, nearest

#: Mapping from kind, as ``alan prepare`` takes it, to the module and the class of its reader.
READERS = {
    "echonet": ("alan.data.readers.echonet", "EchoNetDynamic"),
    "camus": ("alan.data.readers.camus", "Camus"),
    "tmed": ("alan.data.readers.tmed", "Tmed2"),
    "acdc": ("alan.data.readers.acdc", "Acdc"),
    "folder": ("alan.data.readers.folder", "FrameFolder"),
    "coco": ("alan.data.readers.coco", "Coco"),
    "segments": ("alan.data.readers.segments_ai", "SegmentsAi"),
}
#: Largest number of folders that are tried when the root seems to be one level off.
_MOST_TRIED = 20


def open_dataset(kind: str, root: str | os.PathLike[str], **options: Any) -> EchoDataset:
    """Open an archive with the reader of its kind.

    Args:
        kind: A key of :data:`READERS`, such as ``echonet``, ``camus`` or ``folder``, or the class of a reader of
            your own (``module.Class``).
        root: Folder of the archive.
        **options: Options of the constructor of that reader, such as ``split`` for CAMUS.

    Returns:
        The archive.

    Raises:
        ParameterError: The kind or an option is unknown (the message offers the nearest name), or the value of an
            option is outside its bounds.
        DataError: The archive is missing or incomplete. If a folder in ``root`` or the folder above it can be
            opened instead, the message names it.
    """
    reader = find_reader(kind)
    parameters = inspect.signature(reader).parameters
    known = [name for name in parameters if name != "root"]
    for name in options:
        if name not in known:
            raise ParameterError(f"dataset {kind!r} has no option {name!r}: {nearest(name, known)}")
    try:
        dataset: EchoDataset = reader(root, **options)
        return dataset
    except SplitLeakError:
        raise
    except DataError as error:
        elsewhere, lost = _place(reader, Path(root), options), _lost(Path(root))
        if elsewhere is not None:
            raise DataError(f"{error}; did you mean {elsewhere}, which can be opened?") from error
        if lost is not None:
            raise DataError(f"{error}; {lost} cannot be read: get it, or change its permissions") from error
        raise


def find_reader(kind: str) -> type[Any]:
    """Import the reader of a kind of archive, or a reader of the user by the name of its class.

    Args:
        kind: A key of :data:`READERS`, or ``module.Class``, a subclass of :class:`EchoDataset`.

    Raises:
        ParameterError: The kind is unknown, or the class is no reader.
    """
    module, _, name = kind.rpartition(".")
    if module and all(part.isidentifier() for part in kind.split(".")):
        try:
            own = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ParameterError(
                f"kind is {kind}: {error}; give a module of this folder, or install it"
            ) from error
        if not (isinstance(own, type) and issubclass(own, EchoDataset)):
            raise ParameterError(f"kind is {kind}: give a subclass of alan.data.EchoDataset")
        return own
    if kind not in READERS:
        raise ParameterError(f"unknown kind of dataset {kind!r}: {nearest(kind, READERS)}")
    module, name = READERS[kind]
    reader: type[Any] = getattr(importlib.import_module(module), name)
    return reader


def _place(reader: type[Any], root: Path, options: Mapping[str, Any]) -> Path | None:
    """Find a folder one level below or above that the reader can open."""
    if not root.is_dir():
        return None
    below = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    for folder in (*below[:_MOST_TRIED], root.absolute().parent):
        with warnings.catch_warnings(), contextlib.suppress(AlanError, OSError):
            warnings.simplefilter("ignore")
            reader(folder, **options)
            return folder
    return None


def _lost(root: Path) -> Path | None:
    """Return the first entry of a folder that is a link to nothing or may not be read."""
    entries = sorted(root.iterdir()) if root.is_dir() else ()
    return next((path for path in entries if not os.access(path, os.R_OK)), None)
