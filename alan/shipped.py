"""Files that come with ALAN: weights, white boxes and configurations, found by name."""

from __future__ import annotations

import itertools
import os
import sysconfig
from pathlib import Path

from alan.errors import ConfigError, nearest

#: Parcels that are shipped, and the white boxes that are shipped for them.
PARCELS = "alan-sim-parcels"
WHITE_BOXES = ("alan-sim-lv", "alan-sim-myo", "alan-sim-la")

_BESIDE = Path(__file__).resolve().parents[1]
_INSTALLED = (
    Path(sysconfig.get_path("data")),
    Path(sysconfig.get_path("data", sysconfig.get_preferred_scheme("user"))),
    _BESIDE,  # pip install --target
)
#: Folders that hold ``checkpoints`` and ``configs``: a checkout, then the places where a wheel may put them.
ROOTS = (
    *([_BESIDE] if (_BESIDE / "pyproject.toml").is_file() else []),
    *(base / "share" / "alan" for base in _INSTALLED),
)


def folders(name: str) -> list[Path]:
    """Return the folders of that name (``checkpoints`` or ``configs``), those of a checkout first."""
    return [root / name for root in ROOTS if (root / name).is_dir()]


def shipped(suffix: str = ".safetensors") -> dict[str, Path]:
    """Map names of shipped weights to their files; with the suffix ``.json``, of shipped white boxes."""
    return {file.stem: file for folder in reversed(folders("checkpoints")) for file in folder.glob(f"*{suffix}")}


def shipped_parcels() -> list[str]:
    """Return the names of the shipped parcel models."""
    return [name for name in shipped() if name.endswith("-parcels")]


def shipped_or_path(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the file of that path where there is one, else that of a shipped name, else the path as given."""
    path = Path(path_or_name)
    return path if path.exists() else shipped().get(os.fspath(path_or_name), path)


def shipped_configs() -> dict[str, Path]:
    """Map the names of the shipped configurations (``dino/tiny_camus``) to their files, sorted by name."""
    found = {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for folder in reversed(folders("configs"))
        for file in folder.rglob("*.yaml")
    }
    return dict(sorted(found.items()))


def config_file(path_or_name: str | os.PathLike[str]) -> Path:
    """Find a configuration by its path, or a shipped one by its name, such as ``dino/tiny_camus``.

    Raises:
        ConfigError: There is neither; the message offers the nearest name.
    """
    path, configs = Path(path_or_name), shipped_configs()
    name = os.fspath(path_or_name).removeprefix("configs/").removesuffix(".yaml")
    if path.is_file():
        return path
    if name in configs:
        return configs[name]
    hint = nearest(name, configs).partition("choose one of")[0]
    raise ConfigError(
        f"{path_or_name}: no such file and no shipped configuration: {hint}'alan configs' lists them"
    )


def summary(config: Path) -> str:
    """Return the first sentence of a configuration's comment; empty where it has none."""
    with config.open(encoding="utf-8") as file:
        prose = itertools.takewhile(lambda line: line[0] == "#" and not line.startswith("#  "), file)
        text = " ".join(line.removeprefix("#").strip() for line in prose)
    return text.partition(". ")[0].removesuffix(".") + "." if text else ""
