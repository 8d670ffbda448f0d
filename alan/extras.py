"""Third parties of an extra, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from alan.errors import ConfigError


def third_party(name: str, extra: str = "supervised") -> Any:
    """Import a module of an extra.

    Args:
        name: ``segmentation_models_pytorch``, ``kornia.augmentation``, ``torchmetrics`` ...
        extra: the extra that installs it.

    Raises:
        ConfigError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ConfigError(f"{package} is not installed: pip install 'alan[{extra}]'") from error
