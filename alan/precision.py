"""Numerical precision of trainings: bfloat16 only where the hardware computes it natively."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

#: ``auto``, and the precisions of Lightning that ALAN's configurations use.
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"]
#: Flags of /proc/cpuinfo: AVX512-BF16 and AMX of x86, and BF16 of ARM.
_NATIVE = {"avx512_bf16", "amx_bf16", "bf16"}
_CPUINFO = Path("/proc/cpuinfo")


def native_bf16(accelerator: str = "auto") -> bool:
    """Return whether a device multiplies bfloat16 natively; emulated, it is several times slower than float32.

    Args:
        accelerator: Lightning's name: ``cpu``, ``gpu``, ``cuda``, or ``auto`` for a CUDA GPU where there is one.

    Returns:
        For a CUDA GPU the answer of the driver, for a processor that of its flags; False where neither is known.
    """
    if accelerator not in ("auto", "gpu", "cuda"):
        return accelerator == "cpu" and _cpu_has_bf16()
    import torch  # slow to import

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return accelerator == "auto" and _cpu_has_bf16()


def choose_precision(precision: str, accelerator: str = "auto", recorded: str | None = None) -> str:
    """Replace ``auto`` by the precision that a training uses.

    Args:
        precision: ``auto``, or any precision of Lightning, which is returned as it is.
        accelerator: Lightning's name of the device, see :func:`native_bf16`.
        recorded: Precision that the run recorded when it was started. A run that is resumed with ``auto`` keeps
            it, on another machine too.

    Returns:
        ``bf16-mixed`` where the device computes bfloat16 natively, else ``32-true``.
    """
    if precision != "auto":
        return precision
    if recorded is not None and recorded != "auto":
        return recorded
    return "bf16-mixed" if native_bf16(accelerator) else "32-true"


def _cpu_has_bf16() -> bool:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    flags = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return not _NATIVE.isdisjoint(next(flags, []))
