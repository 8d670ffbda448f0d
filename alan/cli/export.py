"""The verb ``alan export``: backbone and parcel head as a program of other software."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from alan.bounds import bounded


@bounded
def export(
    model: str,
    out: str,
    *,
    format: Literal["onnx", "torch"] = "onnx",  # noqa: A002 (the option's name)
    overwrite: bool = False,
) -> Path:
    """Export backbone and parcel head as one program from frames to parcels, for ONNX or torch.export.

    The folder contains network.onnx (or network.pt2), which takes frames (B, size, size) uint8, any number of
    them, and gives pooled features, CLS vector, tokens and parcel logits; network.onnx.json with its inputs,
    outputs, SHA-256 and origin; and a copy of the model (manifest, weights, white boxes, bank of views), so that
    the folder is a model for alan analyze and alan ui. The program is compared with the model before the command
    ends. ONNX needs the extra onnx.

    Args:
        model: Path or name of a model (alan-sim), or of parcels alone (parcels.safetensors, alan-sim-parcels); it
            may also follow the verb (alan export alan-sim --out MODEL).
        out: Folder to write.
        format: Format of the program: onnx, or torch for torch.export.load.
        overwrite: Replace an export of another model or format.

    Returns:
        Path of the program.

    Raises:
        DataError: There is no such model.
        CheckpointError: The model is damaged, or cannot be exported.
        ConfigError: The extra onnx is not installed, or the folder contains another export.
    """
    from alan.analysis.model_export import export_model

    return export_model(model, out, format=format, overwrite=overwrite)
