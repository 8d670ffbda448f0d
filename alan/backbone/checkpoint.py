"""Weights on disk: reading tensors safely, telling the network from them, writing a backbone."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from alan.backbone.conv import ConvNet, ConvSpec
from alan.backbone.vit import VitSpec, build_vit
from alan.errors import CheckpointError, ParameterError, nearest
from alan.files import atomic

SCHEMA = "alan-backbone/1"
#: Key of ALAN's own entry in a Lightning checkpoint and in the metadata of a safetensors file.
ENTRY = "alan"
#: Kinds of networks by the word in the metadata; a file without the word is of the first.
_KINDS: dict[str, type[VitSpec] | type[ConvSpec]] = {"vit": VitSpec, "conv": ConvSpec}
_NAMES: dict[type, str] = {VitSpec: "plain ViT", ConvSpec: "ConvNet"}


@dataclass(frozen=True)
class Weights:
    """A network's tensors and what the file says of it.

    Attributes:
        tensors: names to tensors; for a ViT timm's (and the original DINO's) names.
        spec: the specification, where the file has one.
        provenance: free words about the origin, JSON-able.
    """

    tensors: Mapping[str, Tensor]
    spec: VitSpec | ConvSpec | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def export_backbone(
    network: nn.Module,
    spec: VitSpec | ConvSpec,
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write weights and specification as safetensors, atomically.

    Args:
        network: e.g. ``module.teacher.vit`` of a trained ``DINOModule``, ``backbone.vit`` or ``backbone.network``.
        spec: its specification.
        path: the file, ending in ``.safetensors``.
        provenance: JSON-able words about the origin (data, steps, licence).
    """
    entry = {"schema": SCHEMA, **spec_entry(spec), "provenance": dict(provenance or {})}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={ENTRY: json.dumps(entry)})


def spec_entry(spec: VitSpec | ConvSpec) -> dict[str, Any]:
    """``kind`` and ``spec`` of a network, JSON-able, as they stand in a file."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(spec, cls))
    return {"kind": kind, "spec": spec.to_dict()}


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read a backbone out of a file.

    It may be an exported ``.safetensors``, a Lightning checkpoint of ``DINOModule`` or ``SimulationModule`` (its
    teacher), or an original DINO ``.pth``: the plain state dict, or the full training checkpoint (its teacher).

    Raises:
        CheckpointError: the file is missing, truncated, not plain tensors, or holds no backbone.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file")
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    content = load_plain(file)
    if ENTRY in content and "state_dict" in content:
        entry = content[ENTRY]
        prefix = entry.get("prefix", "teacher.vit.") if isinstance(entry, Mapping) else ""
        tensors = _strip(content["state_dict"], prefix)
        if not tensors or not isinstance(entry, Mapping) or "spec" not in entry:
            raise CheckpointError(f"{file}: a Lightning checkpoint without a backbone; give one of `alan fit`")
        return Weights(tensors, _spec(entry, file), entry.get("provenance", {}))
    for key in ("teacher", "state_dict", "model"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    content = {str(name).removeprefix("module.").removeprefix("backbone."): x for name, x in content.items()}
    head = ("head.", "fc_norm.")  # DINO's projection head stands beside the network in full checkpoints
    tensors = {name: x for name, x in content.items() if not name.startswith(head)}
    stray = [name for name, x in tensors.items() if not isinstance(x, Tensor)]
    if stray or not tensors:
        what = f"{stray[0]!r} is no tensor" if stray else "there is no tensor in it"
        raise CheckpointError(
            f"{file}: {what}; expected a state dict in the DINO naming (cls_token, blocks.0....)"
        )
    return Weights(tensors)


def load_plain(path: Path) -> dict[str, Any]:
    """``torch.load`` restricted to plain tensors and containers, on the CPU.

    Raises:
        CheckpointError: missing, truncated, not a checkpoint, or a pickle that holds other things.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        # The original DINO's full checkpoints carry their arguments; a Namespace runs no code when it is read.
        with torch.serialization.safe_globals([argparse.Namespace]):
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


def network(weights: Weights, origin: str, heads: int | None = None) -> tuple[nn.Module, VitSpec | ConvSpec]:
    """Build the network that the weights belong to, and fill it.

    Args:
        weights: the tensors; without a specification it is read off their shapes.
        origin: name of the source, for messages.
        heads: attention heads, which shapes do not tell; default: one for 64 channels, as in every DINO ViT.

    Raises:
        CheckpointError: another architecture; the message names the first key or shape that differs.
    """
    spec = weights.spec or infer_spec(weights.tensors, origin, heads)
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
        built: nn.Module = ConvNet(spec) if isinstance(spec, ConvSpec) else build_vit(spec)
    own = built.state_dict()
    for name, tensor in own.items():
        if name not in weights.tensors:
            raise CheckpointError(f"{origin}: another architecture: {name!r} is missing")
        if weights.tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{origin}: another architecture: {name!r} has the shape {tuple(weights.tensors[name].shape)}, "
                f"the network asks for {tuple(tensor.shape)}"
            )
    unknown = sorted(set(weights.tensors) - set(own))
    if unknown:
        raise CheckpointError(
            f"{origin}: another architecture: {unknown[0]!r} is not part of a {_NAMES[type(spec)]}"
        )
    built.load_state_dict(dict(weights.tensors))
    return built, spec


def infer_spec(tensors: Mapping[str, Tensor], origin: str, heads: int | None = None) -> VitSpec:
    """Read the specification off a state dict in the DINO naming; normalisation is ImageNet's.

    Raises:
        CheckpointError: a key is missing or has an impossible shape.
    """
    ranks = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}
    for name, rank in ranks.items():
        if name not in tensors:
            raise CheckpointError(f"{origin}: another architecture: {name!r} is missing, this is no ViT of DINO's")
        if tensors[name].ndim != rank:
            raise CheckpointError(
                f"{origin}: another architecture: {name!r} has the shape {tuple(tensors[name].shape)}"
            )
    dim, in_chans, patch, _ = tensors["patch_embed.proj.weight"].shape
    side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
    blocks = {int(found.group(1)) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
    if heads is None and dim % 64:
        raise CheckpointError(f"{origin}: cannot tell the attention heads of a network of width {dim}")
    try:
        return VitSpec(
            image_size=side * patch,
            patch_size=patch,
            in_chans=in_chans,
            dim=dim,
            depth=max(blocks) + 1,
            heads=heads or dim // 64,
            mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim,
        )
    except ParameterError as error:
        raise CheckpointError(f"{origin}: another architecture: {error}") from error


def _read_safetensors(file: Path) -> Weights:
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: truncated or not a safetensors file; fetch or export it again") from error
    if ENTRY not in metadata:
        return Weights(tensors)
    try:
        entry = json.loads(metadata[ENTRY])
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file}: its metadata is not JSON") from error
    if not isinstance(entry, dict) or entry.get("schema") != SCHEMA:
        schema = entry.get("schema") if isinstance(entry, dict) else None
        raise CheckpointError(f"{file}: schema {schema!r} where a backbone has {SCHEMA!r}")
    return Weights(tensors, _spec(entry, file), entry.get("provenance", {}))


def _spec(entry: Mapping[str, Any], file: Path) -> VitSpec | ConvSpec:
    kind = entry.get("kind", "vit")
    if kind not in _KINDS:
        raise CheckpointError(f"{file}: unknown kind of network {kind!r}: {nearest(str(kind), _KINDS)}")
    try:
        return _KINDS[kind](**entry["spec"])
    except (TypeError, KeyError, ParameterError) as error:
        raise CheckpointError(f"{file}: unreadable specification of the network ({error})") from error


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def check_same_network(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse to go on with a checkpoint of another network.

    Args:
        saved: the network's settings in the checkpoint.
        own: those of the configuration.

    Raises:
        CheckpointError: names every setting that differs, with both values.
    """
    changed = [
        f"{name} {saved.get(name)} where the config has {own[name]}"
        for name in own
        if saved.get(name) != own[name]
    ]
    if changed:
        raise CheckpointError(f"the checkpoint is of another network: {', '.join(changed)}")
