"""Weights on disk: reading tensors safely, building the network they belong to, writing a backbone."""

from __future__ import annotations

import argparse
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alan.arrays import verify_zip
from alan.backbone.base import BackboneSpec, check_fields
from alan.backbone.registry import BACKBONES
from alan.errors import AlanWarning, CheckpointError, ParameterError, nearest
from alan.files import check_schema, fingerprint_tensors
from alan.shipped import shipped_or_path
from alan.tensors import check_begin, check_finite, read_tensors, write_tensors

SCHEMA = "alan-backbone/1"
#: Key of ALAN's own entry in a Lightning checkpoint and in the metadata of a safetensors file.
ENTRY = "alan"
#: Key of the check sum of the weights in that entry; files of earlier versions have none.
_SUM = "sha256"
#: A tensor that every vision transformer has; its name begins with the prefix of the network in a checkpoint.
_MARK = "patch_embed.proj.weight"
#: Words that identify the network to read in a checkpoint with several, by preference.
_PREFERRED = ("teacher", "ema")
_HINT = "; where the network is one of timm, give its name and this file: NAME?weights=FILE"
#: Largest excess of a network over the number of values in its file; beyond it, the network is not built.
_SPARE = 10**8
#: Tensors that do not belong to the backbone: classifiers, DINO's projection head, decoders and masks of MAE.
_HEADS = ("head.", "fc_norm.", "dino_head.", "decoder_", "mask_token", "masked_embed")


def _harmless() -> list[Any]:
    """Return the classes in the full checkpoints of the original DINO; reading them runs no code."""
    scalar = np.float64(0).__reduce__()[0]
    named = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    paths = [(pathlib.PosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]
    dtypes = [cls for name, cls in vars(np.dtypes).items() if name.endswith("DType") and name != "ObjectDType"]
    return [argparse.Namespace, np.dtype, *dtypes, *named, *paths]


@dataclass(frozen=True)
class Weights:
    """Tensors of a network, with the metadata of their file.

    Attributes:
        tensors: Mapping from names to tensors; for a vision transformer timm's (and the original DINO's) names.
        spec: The specification, if the file has one.
        provenance: JSON-able entries about the origin.
    """

    tensors: Mapping[str, Tensor]
    spec: BackboneSpec | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def export_backbone(
    network: nn.Module,
    spec: BackboneSpec,
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write weights and specification as safetensors, atomically.

    Args:
        network: The network, such as ``module.teacher.network`` of a trained ``DINOModule``, or
            ``backbone.network``.
        spec: Its specification.
        path: The file, ending in ``.safetensors``.
        provenance: JSON-able entries about the origin (data, steps, licence).
    """
    entry = {"schema": SCHEMA, **spec.entry(), "provenance": dict(provenance or {})}
    tensors = network.state_dict()
    write_tensors(path, tensors, ENTRY, {**entry, _SUM: fingerprint_tensors(tensors)})


def read_weights(path: str | os.PathLike[str], prefix: str | None = None) -> Weights:
    """Read the weights of a backbone from a file.

    The file may be a ``.safetensors`` of :func:`export_backbone` or of another program, a Lightning checkpoint of
    ``DINOModule``, ``SimulationModule`` or ``JointModule`` (its teacher is read), or a ``.pth`` of the original
    DINO or of a program that uses the same names of tensors: a plain state dict, or a full training checkpoint. Of
    several networks in one checkpoint the teacher is read.

    Args:
        path: The file.
        prefix: Beginning of the names of the network's tensors, such as ``module.momentum_encoder.``; None
            finds it in the file.

    Raises:
        CheckpointError: The file is missing, truncated, not plain tensors, or holds no backbone.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; check the spelling")
    is_safetensors = file.suffix == ".safetensors" or check_begin(file)[8:9] == b"{"
    content, entry = _read_safetensors(file) if is_safetensors else _read_pickle(file)
    if entry is None:
        return Weights(_network_tensors(content, str(file), prefix))
    tensors = _below(content, str(entry.get("prefix", "")))
    if not tensors or "spec" not in entry:
        raise CheckpointError(f"{file}: a Lightning checkpoint without a backbone; give one of `alan fit`")
    return Weights(tensors, _spec(entry, file), entry.get("provenance", {}))


def load_plain(path: Path) -> dict[str, Any]:
    """Load a file with ``torch.load``, restricted to plain tensors, containers and scalars, on the CPU.

    Raises:
        CheckpointError: The file is missing, truncated, no checkpoint, or a pickle that holds other things.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the spelling")
    check_begin(path)
    try:
        if zipfile.is_zipfile(path):
            verify_zip(path)
        with torch.serialization.safe_globals(_harmless()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it holds {found.group(1)}" if found else "it cannot be read as such"
        raise CheckpointError(
            f"{path}: not a file of plain tensors ({what}); refused, since loading it could run code"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: truncated or not a checkpoint; fetch or export it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors")
    return content


def network_from_weights(
    weights: Weights,
    origin: str,
    settings: Mapping[str, Any] | None = None,
    cls: type[BackboneSpec] | None = None,
) -> tuple[nn.Module, BackboneSpec]:
    """Build the network that the weights belong to, and load them.

    Args:
        weights: The tensors; a missing specification is derived from their names and shapes.
        origin: Name of the source, for messages.
        settings: Fields of the specification that replace those of the file, or that need not be guessed.
        cls: Type of the backbone; None recognises it by the tensors.

    Raises:
        CheckpointError: Another architecture; the message names the first key or shape that differs.
        ParameterError: The specification has no field of such a name, or a value is out of range.
    """
    known = dict(settings or {})
    if weights.spec is not None:
        check_fields(type(weights.spec), known, origin)
        spec = replace(weights.spec, **known)  # type: ignore[type-var]
    else:
        spec = _recognise(weights.tensors, origin, known, [cls] if cls else list(BACKBONES.values()))
    with torch.device("meta"):  # shapes alone: a specification may claim more than memory holds
        claimed = sum(tensor.numel() for tensor in spec.build().state_dict().values())
    there = sum(tensor.numel() for tensor in weights.tensors.values())
    if claimed > 2 * there + _SPARE:
        raise CheckpointError(f"{origin}: another architecture: {there} values for a network of {claimed}")
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
        network = spec.build()
    own = network.state_dict()
    hint = _HINT if weights.spec is None and cls is None else ""
    try:
        tensors = spec.convert(weights.tensors, network)
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        raise CheckpointError(f"{origin}: another architecture: {error}") from error
    tensors = {name: x for name, x in tensors.items() if name in own or not name.startswith(_HEADS)}
    for name, tensor in own.items():
        if name not in tensors:
            raise CheckpointError(f"{origin}: another architecture: {name!r} is missing{hint}")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{origin}: another architecture: {name!r} has the shape {tuple(tensors[name].shape)}, "
                f"the network expects {tuple(tensor.shape)}{hint}"
            )
        if tensors[name].is_complex() or tensors[name].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(f"{origin}: {name!r} holds {tensors[name].dtype}, the network {tensor.dtype}")
    check_finite(tensors, origin)
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        kind = type(spec).__name__
        raise CheckpointError(f"{origin}: another architecture: {unknown[0]!r} is not part of a {kind}{hint}")
    network.load_state_dict(tensors)
    return network, spec


def fill_network(init: str | os.PathLike[str], own: nn.Module, spec: BackboneSpec) -> None:
    """Fill a network with the weights of a file.

    Args:
        init: Any file that :func:`read_weights` accepts, or the name of shipped weights.
        own: The network to fill.
        spec: Its specification.

    Raises:
        CheckpointError: The file cannot be read, or is of another network.
    """
    weights = read_weights(shipped_or_path(init))
    if weights.spec is None:  # a plain state dict: its shapes must be those of this network
        weights = replace(weights, spec=spec)
    built, found = network_from_weights(weights, os.fspath(init))
    check_same_network(found.architecture(), spec.architecture())
    own.load_state_dict(built.state_dict())


def check_same_network(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse to resume from a checkpoint of another network.

    Args:
        saved: The network's settings in the checkpoint.
        own: Those of the configuration.

    Raises:
        CheckpointError: Names every setting that differs, with both values.
    """
    changed = [
        f"{name} {saved.get(name)} where the config has {own[name]}"
        for name in own
        if saved.get(name) != own[name]
    ]
    if changed:
        raise CheckpointError(f"the checkpoint is of another network: {', '.join(changed)}")


def _recognise(
    tensors: Mapping[str, Tensor], origin: str, known: Mapping[str, Any], types: list[type[BackboneSpec]]
) -> BackboneSpec:
    for cls in types:
        own = {entry.name for entry in fields(cls)}  # type: ignore[arg-type]
        spec = cls.from_weights(tensors, origin, {name: x for name, x in known.items() if name in own})
        if spec is not None:
            check_fields(cls, known, origin)
            return spec
    found = min(tensors)
    raise CheckpointError(f"{origin}: another architecture: {found!r} is not part of any known backbone{_HINT}")


def _read_pickle(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Read a file of torch: its content, and ALAN's entry if it has one."""
    content = load_plain(file)
    if ENTRY not in content or "state_dict" not in content:
        return content, None
    entry = content[ENTRY]
    return content["state_dict"], entry if isinstance(entry, Mapping) else {}


def _read_safetensors(file: Path) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Read a file of safetensors: its tensors, and ALAN's entry if it has one."""
    tensors, entry = read_tensors(file, ENTRY)
    if entry is not None:
        check_schema(entry, SCHEMA, f"{file}: ", "give a backbone of `alan fit`", CheckpointError)
        if entry.get(_SUM, "") not in ("", fingerprint_tensors(tensors)):
            raise CheckpointError(f"{file}: its weights are not those that were written; fetch or export it again")
    return tensors, entry


def _network_tensors(content: Mapping[str, Any], origin: str, prefix: str | None) -> dict[str, Tensor]:
    """Return the tensors of one network in a checkpoint of another program, without their common prefix."""
    tensors = dict(_flat(content))
    if not tensors:
        raise CheckpointError(f"{origin}: there is no tensor in it; expected a state dict of a network")
    for wrapper in ("state_dict.", "model."):
        inside = _below(tensors, wrapper)
        others = any(name.endswith(_MARK) and not name.startswith(wrapper) for name in tensors)
        tensors = tensors if others or not inside else inside
    if prefix is None:
        prefix = _prefix([name.removesuffix(_MARK) for name in tensors if name.endswith(_MARK)], origin)
    found = _below(tensors, prefix)
    if not found:
        begin = sorted({name.partition(".")[0] for name in tensors})
        raise CheckpointError(f"{origin}: no tensor begins with {prefix!r}: {nearest(prefix, begin[:20])}")
    return found


def _prefix(found: list[str], origin: str) -> str:
    """Find the prefix of the network to read: that of the teacher if there are several."""
    for word in _PREFERRED:
        chosen = [prefix for prefix in found if word in prefix]
        if chosen:
            return min(chosen, key=len)
    chosen = sorted(found, key=len)
    if len(chosen) > 1:
        warnings.warn(
            f"{origin}: holds several networks ({', '.join(map(repr, chosen))}); {chosen[0]!r} is read. "
            "Give prefix to choose one",
            AlanWarning,
            stacklevel=2,
        )
    return chosen[0] if chosen else ""


def _flat(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Collect the tensors of nested dictionaries, with keys joined by dots."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")


def _below(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def _spec(entry: Mapping[str, Any], file: Path) -> BackboneSpec:
    kind = str(entry.get("kind"))
    if kind not in BACKBONES:
        raise CheckpointError(f"{file}: unknown kind of network {kind!r}: {nearest(kind, BACKBONES)}")
    try:
        return BACKBONES[kind](**entry["spec"])
    except (TypeError, KeyError, ParameterError) as error:
        raise CheckpointError(f"{file}: unreadable specification of the network ({error})") from error
