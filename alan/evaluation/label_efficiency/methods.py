"""Methods of label efficiency by the kind that names them in configurations."""

from __future__ import annotations

import importlib

from alan.errors import ParameterError, nearest
from alan.evaluation.label_efficiency.protocol import Method

#: Kind of a method to its module and class; a class is imported when it is first used.
METHODS = {
    "rule": "rule.RuleMethod",
    "linear": "probes.LinearMethod",
    "soft_linear": "probes.SoftLinearMethod",
    "decoder": "probes.DecoderMethod",
    "network": "network.NetworkMethod",
    "segmenter": "segmenter.SegmenterMethod",
    "atlas": "atlas.AtlasMethod",
}


def method_class(kind: str) -> type[Method]:
    """Find the class of a method.

    Args:
        kind: Kind of the method.

    Raises:
        ParameterError: The kind is unknown; the message offers the nearest one.
    """
    if kind not in METHODS:
        raise ParameterError(f"unknown kind {kind!r}: {nearest(kind, METHODS)}")
    module, _, name = METHODS[kind].partition(".")
    found: type[Method] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return found
