"""Optional dependencies: imported when they are first needed, with a hint when they are not installed."""

from __future__ import annotations

import importlib
from typing import Any

from alan.errors import ConfigError

#: Name of the distribution; on PyPI ``alan`` is another project.
DISTRIBUTION = "alan-echo"


def install_hint(extra: str) -> str:
    """Return the command that installs an extra, such as ``pip install 'alan-echo[dicom]'``."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def third_party(name: str, extra: str = "supervised") -> Any:
    """Import a module of an optional dependency.

    Args:
        name: The module, such as ``kornia.augmentation``.
        extra: The extra of this package that installs it.

    Raises:
        ConfigError: The module is not installed; the message gives the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ConfigError(f"{package} is not installed: {install_hint(extra)}") from error
