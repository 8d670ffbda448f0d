"""Export of a model: its network as a program for another runtime, and the files that an analysis loads."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from alan.analysis.manifest import SUFFIX, shipped_models
from alan.analysis.model import BOXES, PROGRAM, VIEWS, AnalysisModel
from alan.bounds import bounded
from alan.errors import DataError, nearest
from alan.export.program import BACKBONE, PARCELS, RECORD, SUFFIXES, Format, write_program, write_weights
from alan.parcels.model import ParcelModel, load_parcels
from alan.runs import open_run
from alan.shipped import shipped

_log = logging.getLogger(__name__)


@bounded
def export_model(
    model: str,
    out: str | os.PathLike[str],
    *,
    format: Format = "onnx",  # noqa: A002 (the option's name)
    overwrite: bool = False,
) -> Path:
    """Write a model, with its network as an ONNX or ``torch.export`` program, into a folder.

    Args:
        model: Path or name of a model, or of parcels alone.
        out: Folder to write.
        format: Format of the program.
        overwrite: Replace an export of another model or format.

    Returns:
        Path of the program.

    Raises:
        DataError: There is no such model.
        CheckpointError: The model is damaged, cannot be exported, or its program deviates from it.
        ConfigError: A package of the extra ``onnx`` is not installed, or the folder holds another export.
    """
    found, folder = _load(model), Path(out)
    parcels = found if isinstance(found, ParcelModel) else found.parcels
    size = parcels.backbone.input_size if isinstance(found, ParcelModel) else found.size
    program = folder / Path(PROGRAM).with_suffix(SUFFIXES[format])
    config = {"model": found.fingerprint, "format": format, "size": size}
    programs = [str(Path(PROGRAM).with_suffix(suffix)) for suffix in SUFFIXES.values()]
    contents = [BACKBONE, PARCELS, VIEWS, BOXES, *programs, *(f"{name}{RECORD}" for name in programs)]
    with open_run(
        folder, config, overwrite, [*contents, *(path.name for path in folder.glob(f"*{SUFFIX}"))]
    ) as run:
        if run.finished:
            _log.info("%s: the same model and format as before, nothing to do", program)
            return program
        record = write_program(parcels, program, size)
        if isinstance(found, ParcelModel):
            write_weights(found, folder)
        else:
            found.save(folder, Path(model).resolve().name.removesuffix(SUFFIX))
        run.finish()
    _log.info(
        "%s: %.1f MB, deviates from the model by at most %.1g of the largest value",
        program,
        program.stat().st_size / 1e6,
        record["deviation"],
    )
    return program


def _load(model: str) -> AnalysisModel | ParcelModel:
    path, models = Path(model), shipped_models()
    if path.is_dir() or path.suffix == ".json" or model in models:
        return AnalysisModel.load(model)
    parcels = [name for name in shipped() if name.endswith("-parcels")]
    if not path.is_file() and model not in parcels:
        raise DataError(
            f"{model}: no such model and no such parcels; {nearest(model, [*sorted(models), *parcels])}"
        )
    return load_parcels(model)
