"""Numerical precision of trainings: bfloat16 only where the hardware computes it faster than float32."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Literal

#: ``auto``, and the precisions of Lightning that ALAN's configurations use.
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"]
#: Flags of /proc/cpuinfo: AVX512-BF16 and AMX of x86, and BF16 of ARM.
_NATIVE = {"avx512_bf16", "amx_bf16", "bf16"}
_CPUINFO = Path("/proc/cpuinfo")


def fast_bf16(accelerator: str = "auto") -> bool:
    """Return whether a device computes bfloat16 faster than float32.

    Emulated, bfloat16 is several times slower. Processors that compute it natively are measured, once per process:
    without AMX some of them need half as much time again as for float32.

    Args:
        accelerator: Lightning's name: ``cpu``, ``gpu``, ``cuda``, or ``auto`` for a CUDA GPU where there is one.

    Returns:
        For a CUDA GPU whether it computes bfloat16 natively, for a processor what was measured; False where
        neither is known.
    """
    if accelerator not in ("auto", "gpu", "cuda"):
        return accelerator == "cpu" and _cpu_has_bf16() and _measured_faster()
    import torch  # slow to import

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return accelerator == "auto" and _cpu_has_bf16() and _measured_faster()


def choose_precision(precision: str, accelerator: str = "auto", recorded: str | None = None) -> str:
    """Replace ``auto`` by the precision that a training uses.

    Args:
        precision: ``auto``, or any precision of Lightning, which is returned as it is.
        accelerator: Lightning's name of the device, see :func:`fast_bf16`.
        recorded: Precision that the run recorded when it was started. A run that is resumed with ``auto`` keeps
            it, on another machine too.

    Returns:
        ``bf16-mixed`` where the device computes bfloat16 faster than float32, else ``32-true``.
    """
    if precision != "auto":
        return precision
    if recorded is not None and recorded != "auto":
        return recorded
    return "bf16-mixed" if fast_bf16(accelerator) else "32-true"


def _cpu_has_bf16() -> bool:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    flags = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return not _NATIVE.isdisjoint(next(flags, []))


@cache
def _measured_faster() -> bool:
    """Compare the CPU time of a convolution and a linear layer, forwards and backwards, in both precisions."""
    import torch
    import torch.nn.functional as F

    def ones(*shape: int) -> torch.Tensor:  # no random numbers: results must not depend on the processor
        return torch.ones(shape, requires_grad=True)

    convolution, linear = (ones(4, 64, 28, 28), ones(64, 64, 3, 3)), (ones(256, 384), ones(1536, 384))

    def seconds(bf16: bool) -> float:
        start = time.process_time()
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = F.conv2d(*convolution).sum() + F.linear(*linear).sum()
        torch.autograd.backward(outputs)
        return time.process_time() - start

    float32, bfloat16 = (min(seconds(bf16) for _ in range(4)) for bf16 in (False, True))  # the first one warms up
    return bfloat16 < float32
