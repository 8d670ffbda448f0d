"""The device of a computation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alan.errors import ParameterError

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> torch.device:
    """Return a device by its name.

    Args:
        name: Name of the device, such as ``cpu`` or ``cuda:1``; ``auto`` is a CUDA GPU where there is one, else
            the processor.

    Raises:
        ParameterError: There is no such device on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(f"device is {name!r}, which cannot be used here: give cpu, cuda or auto") from error
