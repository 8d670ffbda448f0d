"""Frames of a label-efficiency protocol: nested draws of patients, and features computed once and kept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from alan.backbone.load import load_backbone
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.prior import ParcelPrior
from alan.errors import DataError
from alan.evaluation.cases import of_phase
from alan.evaluation.label_efficiency.methods import Method
from alan.evaluation.maps import parcel_maps
from alan.files import atomic, fingerprint, write_text
from alan.parcels.model import ParcelModel, load_parcels


@dataclass(frozen=True)
class Prepared:
    """Features of all label and test frames, in that order, in a file.

    Attributes:
        path: the file: ``.npz`` of parcel maps, or ``.npy`` of tokens or soft scores.
        fingerprint: of the model that made them.
        n_parcels: K of a parcel model, else 0.
        background_id: of its maps.
    """

    path: str
    fingerprint: str
    n_parcels: int = 0
    background_id: int | None = None

    def read(self) -> NDArray[Any]:
        """The features: maps (n, S, S) uint8 in memory, or tokens (n, h, w, D) float16 mapped from the file."""
        if self.path.endswith(".npz"):
            with np.load(self.path, allow_pickle=False) as file:
                return np.asarray(file["maps"])
        return np.asarray(np.load(self.path, mmap_mode="r", allow_pickle=False))


def feature_name(method: Method) -> str:
    """What features a method needs: the same name, the same features; empty for none."""
    if method.kind == "rule":
        return f"maps {method.parcels}"
    if method.kind == "soft_linear":
        return f"soft {method.parcels}"
    if method.kind in ("linear", "decoder"):
        return f"tokens {method.backbone} {method.input_size} {method.stride} {method.feature_levels}"
    return ""


def check_models(methods: Sequence[Method]) -> None:
    """Load every backbone and parcels file once, so that one that cannot be read is refused before the work.

    Raises:
        CheckpointError: a file is missing, truncated, or of another kind.
    """
    for method in {feature_name(m): m for m in methods if feature_name(m)}.values():
        _load(method)


def _load(method: Method) -> Any:
    if method.parcels is not None:
        return load_parcels(method.parcels)
    options: dict[str, Any] = {"input_size": method.input_size, "stride": method.stride}
    return load_backbone(str(method.backbone), **options, feature_levels=method.feature_levels)


def prepare_features(
    methods: Sequence[Method], store: FrameStore, frames: NDArray[np.int64], folder: Path, batch_size: int
) -> dict[str, Prepared]:
    """Compute what the methods need of the frames, each once, or find it where an earlier call kept it.

    Args:
        methods: the methods.
        store: the frame store.
        frames: (n,) global frame indices.
        folder: where files are kept.
        batch_size: frames through a network at a time.

    Returns:
        Feature name (see :func:`feature_name`) to its file.
    """
    found: dict[str, Prepared] = {}
    for method in methods:
        name = feature_name(method)
        if not name or name in found:
            continue
        model = _load(method)
        key = fingerprint([name.partition(" ")[0], model.fingerprint, store.fingerprint, frames.tolist()])[:16]
        if method.kind == "rule":
            path = folder / f"maps-{key}.npz"
            parcel_maps(model, store, frames, path, batch_size=batch_size, name=method.name)
            found[name] = Prepared(str(path), model.fingerprint, model.n_parcels, model.background_id)
        else:
            path = folder / f"{name.partition(' ')[0]}-{key}.npy"
            device = "cuda" if torch.cuda.is_available() else "cpu"
            compute = _soft_scores(model.to(device)) if method.kind == "soft_linear" else _tokens(model.to(device))
            _write_features(compute, store, frames, path, batch_size=batch_size, device=device, name=method.name)
            found[name] = Prepared(str(path), model.fingerprint)
    return found


def prepare_priors(
    methods: Sequence[Method], structures: Sequence[str], phases: Sequence[str], folder: Path, batch_size: int
) -> dict[str, dict[str, str]]:
    """Count parcels on the simulated frames of every prior, or find the counts where an earlier call kept them.

    Args:
        methods: the methods.
        structures: structures to count.
        phases: phases of the protocol, of which a method with a list for each has a prior each.
        folder: where files are kept.
        batch_size: frames through a network at a time.

    Returns:
        Name of a method to each structure's :class:`~alan.downstream.ParcelPrior`, as JSON; with a list for
        each phase the names are ``structure phase``.
    """
    found: dict[str, dict[str, str]] = {}
    for method in methods:
        if method.prior is None:
            continue
        model, store = _load(method), FrameStore(method.prior)
        table = store.labelled(None, None, ("ED", "ES"))
        frames, labels = table["frame"].to_numpy(), table["label"].to_numpy()
        key = fingerprint([model.fingerprint, store.fingerprint, frames.tolist()])[:16]
        parts = phases if method.per_phase else ("",)
        for structure, phase in itertools.product(structures, parts):
            path = folder / f"prior-{structure}{phase and '-' + phase.lower()}-{key}.json"
            rows = of_phase(table["phase"], phase)
            if not rows.any():
                raise DataError(f"{method.prior}: the prior's store has no frame of the phase {phase!r}")
            if not path.exists():
                maps = parcel_maps(
                    model, store, frames, folder / f"maps-{key}.npz", batch_size=batch_size, name="prior"
                )
                prior = ParcelPrior.count(
                    maps[rows],
                    store.masks(labels[rows], structure),
                    groups=table["patient"].to_numpy()[rows],
                    n_parcels=model.n_parcels + (model.background_id is not None),
                    background_id=model.background_id,
                    structure=structure,
                    provenance=model.fingerprint,
                )
                write_text(path, prior.to_json())
            found.setdefault(method.name, {})[f"{structure} {phase}".strip()] = path.read_text(encoding="utf-8")
    return found


def _tokens(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda frames: model(frames).tokens


def _soft_scores(model: ParcelModel) -> Callable[[Tensor], Tensor]:
    return lambda frames: model.logits(frames).float().softmax(1).permute(0, 2, 3, 1)


def _write_features(
    compute: Callable[[Tensor], Tensor],
    store: FrameStore,
    frames: NDArray[np.int64],
    path: Path,
    *,
    batch_size: int,
    device: str,
    name: str,
) -> None:
    """Write (n, h, w, D) float16, piece by piece; the name says what is in it, so one that is there is left."""
    if path.exists():
        return
    with (
        atomic(path) as temporary,
        temporary.open("wb") as file,
        tqdm(total=len(frames), desc=f"features: {name}", unit="frame", leave=False) as bar,
        torch.inference_mode(),
    ):
        for start in range(0, len(frames), batch_size):
            part = torch.from_numpy(store.frames(frames[start : start + batch_size])).to(device)
            values = compute(part).half().cpu().numpy()
            if start == 0:
                header = {"descr": "<f2", "fortran_order": False, "shape": (len(frames), *values.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(values).tobytes())
            bar.update(len(part))
