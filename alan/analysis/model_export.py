"""Export of a model: its network as a program for another runtime, and the files that an analysis loads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from alan.analysis.manifest import SUFFIX
from alan.bounds import bounded
from alan.runs import open_run

_log = logging.getLogger(__name__)


@bounded
def export_model(
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
    the folder is a model for alan analyze and alan ui; further models of the manifest have folders of their own in
    it. The program is compared with the model before the command ends. ONNX needs the extra onnx.

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
    from alan.analysis.model import BOXES, OTHERS, PROGRAM, VIEWS, load_model_or_parcels
    from alan.export.program import BACKBONE, PARCELS, RECORD, SUFFIXES, write_program, write_weights
    from alan.parcels.model import ParcelModel

    found, folder = load_model_or_parcels(model), Path(out)
    parcels = found if isinstance(found, ParcelModel) else found.parcels
    size = parcels.backbone.input_size if isinstance(found, ParcelModel) else found.size
    program = folder / Path(PROGRAM).with_suffix(SUFFIXES[format])
    config = {"model": found.fingerprint, "format": format, "size": size}
    programs = [str(Path(PROGRAM).with_suffix(suffix)) for suffix in SUFFIXES.values()]
    contents = [BACKBONE, PARCELS, VIEWS, BOXES, OTHERS, *programs, *(f"{name}{RECORD}" for name in programs)]
    with open_run(
        folder, "export", config, overwrite, [*contents, *(path.name for path in folder.glob(f"*{SUFFIX}"))]
    ) as run:
        if run.finished:
            _log.info("%s: the same model and format as before, nothing to do", program)
            return program
        record = write_program(parcels, program, size)
        if isinstance(found, ParcelModel):
            write_weights(found, folder)
        else:
            found.save(folder, Path(model).resolve().name.removesuffix(SUFFIX))
            for name, other in found.others.items():
                write_program(other.parcels, folder / OTHERS / Path(name).name / program.name, other.size)
        run.finish()
    _log.info(
        "%s: %.1f MB, deviates from the model by at most %.1g of the largest value",
        program,
        program.stat().st_size / 1e6,
        record["deviation"],
    )
    return program
