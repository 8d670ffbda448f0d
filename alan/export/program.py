"""Parcel models as one program from frames to logits for other software: ONNX, or a program of torch.export."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alan._version import __version__
from alan.backbone.checkpoint import export_backbone, read_weights
from alan.backbone.load import split_source
from alan.bounds import PositiveInt, bounded
from alan.errors import CheckpointError, ParameterError
from alan.extras import third_party
from alan.files import atomic, digest, write_json
from alan.parcels.model import ParcelModel, save_parcels
from alan.shipped import shipped_or_path

#: Input of an exported program, and its outputs in their order.
INPUT, OUTPUTS = "frames", ("pooled", "cls", "tokens", "logits")
#: Format of a program to the suffix of its file: ONNX, or the archive of ``torch.export.save``.
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
Format = Literal["onnx", "torch"]
SCHEMA = "alan-export/1"
#: What is appended to the path of a program for that of its description.
RECORD = ".json"
#: Largest deviation of a written program from the model, as a fraction of the largest value of an output.
_TOLERANCE = 1e-3
#: Modules that writing ONNX needs; torch imports the last two itself.
_NEEDED = {"torch": ("torch",), "onnx": ("torch", "onnxruntime", "onnx", "onnxscript")}
#: Names of the files.
BACKBONE, PARCELS = "backbone.safetensors", "parcels.safetensors"


class OnnxSession:
    """A program of :func:`alan.export.write_program` in onnxruntime, on the CPU with as many threads as torch.

    Args:
        path: The ``.onnx`` file.

    Attributes:
        size: Side in pixels of the frames that the program takes.

    Raises:
        CheckpointError: The file is missing, damaged, or no program of this package.
        ConfigError: The package onnxruntime is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        runtime = third_party("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each kind of damage, without a common base
            raise CheckpointError(f"{path}: missing, or no ONNX program: export the model again") from error
        (given,), found = self._session.get_inputs(), [output.name for output in self._session.get_outputs()]
        if given.name != INPUT or found != list(OUTPUTS):
            raise CheckpointError(f"{path}: no program of alan export: it gives {', '.join(found)}")
        self.size = int(given.shape[1])

    def __call__(self, frames: Tensor | NDArray[np.uint8], *names: str) -> list[Tensor]:
        """Compute outputs of a batch.

        Args:
            frames: (B, size, size) uint8.
            *names: Some of ``pooled``, ``cls``, ``tokens``, ``logits``.

        Returns:
            float32 tensors on the CPU, one per name.

        Raises:
            ParameterError: The frames have another shape or dtype.
        """
        batch = np.ascontiguousarray(torch.as_tensor(frames).cpu().numpy())
        if batch.dtype != np.uint8 or batch.shape[1:] != (self.size, self.size):
            raise ParameterError(
                f"frames are {batch.dtype} {batch.shape}: the program takes uint8 (B, {self.size}, {self.size})"
            )
        return [torch.from_numpy(output) for output in self._session.run(list(names), {INPUT: batch})]


class _Program(nn.Module):
    """From frames (B, size, size) uint8 to the outputs."""

    def __init__(self, model: ParcelModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        backbone = self.model.backbone
        features = backbone(frames)
        # The network is traced twice; exporting to ONNX merges what is common to both.
        return backbone.pooled(frames), *features, self.model.logits_of(features)


@bounded
def write_program(
    model: ParcelModel, path: str | os.PathLike[str], size: PositiveInt | None = None
) -> dict[str, Any]:
    """Write backbone and head as a program that runs without this package, and its description beside it.

    The program takes ``frames`` (B, size, size) uint8, any number B of them, and gives ``pooled`` (B, P), the
    vectors by which views are recognised, ``cls`` (B, D), ``tokens`` (B, h, w, D) and ``logits`` (B, K, h, w), all
    float32. Resizing to the input size of the backbone and normalisation are part of it. The written program is
    run on three frames and compared with the model.

    Args:
        model: The parcel model, on the CPU.
        path: File to write, atomically: ``.onnx``, or ``.pt2`` for ``torch.export.load``.
        size: Side of the frames in pixels; None uses the input size of the backbone.

    Returns:
        What ``PATH.json`` holds: SHA-256 of the program, its input and outputs, fingerprints of what was exported,
        versions, and the largest deviation from the model.

    Raises:
        ParameterError: The suffix is neither ``.onnx`` nor ``.pt2``.
        CheckpointError: The model cannot be exported, or the program deviates from it.
        ConfigError: A package of the extra ``onnx`` is not installed.
    """
    file, side = Path(path), model.backbone.input_size if size is None else size
    kind = next((name for name, suffix in SUFFIXES.items() if file.suffix == suffix), None)
    if kind is None:
        raise ParameterError(f"path is {file}: give a file that ends in {' or '.join(SUFFIXES.values())}")
    for name in _NEEDED[kind]:
        third_party(name, "onnx")
    program, shapes = _Program(model), {INPUT: {0: torch.export.Dim("batch")}}
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, side, side), np.uint8))
    with warnings.catch_warnings(), atomic(file) as temporary:
        warnings.simplefilter("ignore")  # the exporters warn about themselves
        try:
            exported = torch.export.export(program, (frames[:2],), dynamic_shapes=shapes)
            found = (_write_onnx if kind == "onnx" else _write_torch)(exported, temporary, frames, shapes)
        except RuntimeError as error:  # base of the errors of torch.export and torch.onnx
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(
                f"{file}: torch {torch.__version__} cannot export the model ({reason}): try another version"
            ) from error
        wanted = program(frames)
        deviation = max(
            float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(found, wanted, strict=True)
        )
        if not deviation <= _TOLERANCE:
            raise CheckpointError(
                f"{file}: the program deviates from the model by {deviation:.2g} of the largest value, more than "
                f"{_TOLERANCE:g}: try another version of {_NEEDED[kind][-1]}"
            )
    outputs = {name: ["batch", *x.shape[1:]] for name, x in zip(OUTPUTS, wanted, strict=True)}
    record = {
        "schema": SCHEMA,
        "format": kind,
        "file": file.name,
        "sha256": digest(file),
        "inputs": {INPUT: {"dtype": "uint8", "shape": ["batch", side, side]}},
        "outputs": {name: {"dtype": "float32", "shape": shape} for name, shape in outputs.items()},
        "parcels": model.fingerprint,
        "backbone": model.backbone.fingerprint,
        "deviation": deviation,
        "versions": {"alan": __version__, **{name: version(name) for name in _NEEDED[kind]}},
    }
    write_json(f"{file}{RECORD}", record)
    return record


def _write_onnx(exported: Any, path: Path, frames: Tensor, shapes: dict[str, Any]) -> Sequence[Tensor]:
    """Write ONNX, and run it."""
    made = torch.onnx.export(
        exported,
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        dynamic_shapes=shapes,
    )
    assert made is not None
    path.write_bytes(made.model_proto.SerializeToString())
    return OnnxSession(path)(frames, *OUTPUTS)


def _write_torch(exported: Any, path: Path, frames: Tensor, shapes: dict[str, Any]) -> Sequence[Tensor]:
    """Write the archive of torch.export, and run it."""
    content = io.BytesIO()  # torch aborts the process when it cannot write to a file
    torch.export.save(exported, content)
    path.write_bytes(content.getbuffer())
    with path.open("rb") as stream:
        found: Sequence[Tensor] = torch.export.load(stream).module()(frames)
    return found


def write_weights(model: ParcelModel, folder: Path) -> None:
    """Write ``backbone.safetensors``, and ``parcels.safetensors`` for :func:`alan.parcels.load_parcels`.

    Args:
        model: The parcel model.
        folder: The folder; it may be moved later.
    """
    source = shipped_or_path(split_source(model.source or "")[0])
    known = read_weights(source).provenance if source.is_file() and source.suffix == ".safetensors" else {}
    export_backbone(model.backbone.network, model.backbone.spec, folder / BACKBONE, known)
    moved = ParcelModel(
        model.backbone,
        model.head,
        sector_only=model.sector_only,
        source=str(folder / BACKBONE),
        refine=model.refine,
    )
    save_parcels(moved, folder / PARCELS)
