"""The verb ``alan doctor``: installed versions and properties of the machine, for bug reports."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from alan._version import __version__
from alan.analysis.manifest import Manifest, shipped_models
from alan.errors import AlanError
from alan.extras import DISTRIBUTION, install_hint
from alan.files import digest
from alan.precision import fast_bf16
from alan.shipped import folders, shipped_configs
from alan.workers import usable_cpus

#: Extras for those who work on ALAN itself.
_DEVELOPMENT = ("dev", "docs")
#: Codecs of cine loops.
CODECS = ("h264", "hevc", "mpeg4", "mjpeg", "msmpeg4", "rawvideo", "ffv1", "jpeg2000", "vp9", "av1")
#: Flags of /proc/cpuinfo that determine the speed.
PROCESSOR_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def doctor() -> None:
    """Show versions, hardware, codecs, the files that are installed with ALAN, and the optional extras.

    Add the output to a bug report. Nothing is written.
    """
    for title, lines in (
        ("versions", _versions()),
        ("machine", _machine()),
        ("codecs (PyAV)", _codecs()),
        ("installed files (SHA-256)", _files()),
        ("extras", _extras()),
    ):
        sys.stdout.write("\n".join([title, *(f"  {line}" for line in lines), "", ""]))


def _versions() -> Iterator[str]:
    yield f"{'alan':<16} {__version__} ({Path(__file__).resolve().parents[1]})"
    yield f"{'python':<16} {platform.python_version()} ({sys.executable})"
    for name in _requirements(""):
        yield f"{name:<16} {_version(name) or f'not installed: pip install {DISTRIBUTION}'}"


def _requirements(extra: str) -> list[str]:
    """Return the distributions that an extra requires, or those that are always required if no extra is named."""
    try:
        required = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        required = []
    found = [re.match(r"([\w.-]+)[^;]*(?:;.*extra == ['\"]([\w-]+))?", text) for text in required]
    return [match[1] for match in found if match and (match[2] or "") == extra]


def _version(name: str) -> str:
    """Return the version of an installed distribution; empty if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _machine() -> Iterator[str]:
    import torch

    cpuinfo = _read("/proc/cpuinfo")
    model = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if "model name" in line), "")
    known = {flag for line in cpuinfo.splitlines() for flag in line.partition(":")[2].split()}
    yield f"system         {platform.platform()}"
    yield f"processor      {model or platform.processor() or platform.machine()}"
    yield f"cores          {usable_cpus()} of {os.cpu_count()} usable, {torch.get_num_threads()} threads"
    yield f"features       {' '.join(flag for flag in PROCESSOR_FLAGS if flag in known) or 'unknown'}"
    speed, chosen = ("faster", "bfloat16") if fast_bf16() else ("slower", "float32")
    yield f"bfloat16       {speed} than float32: precision auto computes in {chosen}"
    yield f"memory         {_memory()}"
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        yield f"GPU {number}          {card.name}, {card.total_memory / 2**30:.1f} GiB"
    yield f"CUDA           {torch.version.cuda or 'PyTorch is built without it'}, {torch.cuda.device_count()} GPUs"


def _memory() -> str:
    """Describe total and available memory in GiB, and the limit of the container where there is one."""
    sizes = {line.partition(":")[0]: line.split()[1] for line in _read("/proc/meminfo").splitlines()}
    text = ", ".join(f"{int(sizes[key]) / 2**20:.1f} GiB {word}" for key, word in
                     (("MemTotal", "in all"), ("MemAvailable", "available")) if key in sizes)  # fmt: skip
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return (text or "unknown") + (f", limited to {int(limit) / 2**30:.1f} GiB" if limit.isdigit() else "")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system
        return ""


def _codecs() -> Iterator[str]:
    import av

    known = av.codecs_available
    yield f"decoders       {' '.join(name for name in CODECS if name in known)}"
    if missing := [name for name in CODECS if name not in known]:
        yield f"missing        {' '.join(missing)}"


def _files() -> Iterator[str]:
    paths = sorted(path for folder in folders("checkpoints") for path in folder.glob("*.[js]*"))
    for path in paths:
        yield f"{digest(path)[:16]} {path.stat().st_size:>10,} bytes  {path}"
    for name, path in sorted(shipped_models().items()):
        yield f"model {name}: {_views(path)}"
    if not paths:
        yield f"no checkpoints: install the wheel again, pip install --force-reinstall {DISTRIBUTION}"
    yield f"{len(shipped_configs())} configurations ('alan configs' lists them)"


def _views(manifest: Path) -> str:
    """List the views that a model and the further models of its manifest measure."""
    try:
        return ", ".join(Manifest.load(manifest).all_views())
    except AlanError as error:
        return str(error)


def _extras() -> Iterator[str]:
    try:
        extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        extras = []
        yield f"unknown: {DISTRIBUTION} runs from a checkout that is not installed"
    for extra in sorted(set(extras) - set(_DEVELOPMENT)):
        versions = {name: _version(name) for name in _requirements(extra)}
        text = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
        yield f"{extra:<16} {text}{'' if all(versions.values()) else f': {install_hint(extra)}'}"
