"""Third parties of the extra ``supervised``, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from alan.errors import ConfigError


def third_party(name: str) -> Any:
    """Import a module of the extra ``supervised``.

    Args:
        name: ``segmentation_models_pytorch``, ``kornia.augmentation``, ``torchmetrics`` ...

    Raises:
        ConfigError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise ConfigError(f"{package} is not installed: pip install 'alan[supervised]'") from error
