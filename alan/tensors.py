"""Safetensors files with an entry of JSON: written atomically, read with errors in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alan.errors import CheckpointError
from alan.files import atomic


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], key: str, entry: Mapping[str, Any]
) -> None:
    """Write tensors and their description, atomically.

    Args:
        path: The file, ending in ``.safetensors``.
        tensors: Mapping from names to tensors, on any device.
        key: Key of the entry in the metadata of the file.
        entry: JSON-able description of the tensors.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(plain, temporary, metadata={key: json.dumps(entry)})


def read_tensors(path: Path, key: str = "") -> tuple[dict[str, Tensor], Any]:
    """Read the tensors of a file, on the CPU, and its entry.

    Args:
        path: The file.
        key: Key of the entry in the metadata of the file.

    Returns:
        Mapping from names to tensors, and the entry as it was parsed; None where the file has no such entry.

    Raises:
        CheckpointError: The file is missing, truncated, or no safetensors file, or a value is not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    check_begin(path)
    try:
        with safe_open(path, framework="pt") as handle:
            text = (handle.metadata() or {}).get(key, "null")
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            entry = json.loads(text)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file; fetch or export it again") from error
    check_finite(tensors, str(path))
    return tensors, entry


def check_begin(path: Path) -> bytes:
    """Refuse files whose first bytes show that they never held weights.

    Args:
        path: The file.

    Returns:
        The first bytes.

    Raises:
        CheckpointError: It is empty, a pointer of Git LFS, or a web page.
    """
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise CheckpointError(f"{path}: is empty; fetch or export it again")
    if start.startswith(b"version https://git-lfs."):
        raise CheckpointError(f"{path}: is a pointer of Git LFS, not the file itself; run `git lfs pull`")
    if start.lstrip().startswith(b"<"):
        raise CheckpointError(f"{path}: is a web page, not a file of weights; fetch it again")
    return start


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        tensors: Tensors by name.
        where: Their file, which begins the message.

    Raises:
        CheckpointError: A value is not finite.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{where}: {name!r} holds values that are not finite; train or export it again")
