"""The verb ``alan analyze``: from files of loops to beats, volumes, ejection fraction and reports."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from alan.bounds import NonNegativeInt, PositiveFloat, PositiveInt, bounded
from alan.workers import preload_workers, usable_cpus

_View = Literal["A4C", "A2C", "PLAX", "PSAX"]
MODEL = "alan-sim"
_log = logging.getLogger(__name__)


@bounded
def analyze(
    inputs: list[str],
    out: str,
    *,
    model: str = MODEL,
    opinions: list[str] | None = None,
    runtime: Literal["torch", "onnx"] = "torch",
    view: _View | dict[str, _View] | None = None,
    mirror: bool = False,
    patient: str | None = None,
    spacing: float | list[float] | None = None,
    frame_rate: PositiveFloat | None = None,
    stills: bool = True,
    outputs: list[Literal["overlay", "png", "nifti", "dicom"]] = ["overlay", "png", "nifti"],  # noqa: B006
    dicom_references: Literal["pseudonymous", "keep"] = "pseudonymous",
    samples: NonNegativeInt = 40,
    reference: str | None = None,
    key: str | None = None,
    workers: PositiveInt | None = None,
    device: str = "cpu",
    strict: bool = False,
    overwrite: bool = False,
) -> Path:
    """Measure loops: outlines, beats, volumes and ejection fraction of each patient, with a report.

    Reads AVI, MP4, MOV, GIF, DICOM, NIfTI, MetaImage, TIFF stacks, series of stills, pairs of stills at end-
    diastole and end-systole (``..._ED``, ``..._ES``), and frame stores. The sector is found and everything outside
    of it is blanked; the view is recognised; what is no B-mode loop of a known view is left out by name. Apical
    views (A4C, A2C) give volumes. Parasternal ones give diameters, walls and linear mass (PLAX) or area change and
    wall thickness (PSAX), if the model or one that its manifest names in addition knows them. The folder of the
    results holds no identifier: loops and patients have pseudonyms.

    The folder contains ``report.html``, one report per patient in ``patients/``, ``patients.csv``, ``loops.csv``,
    ``beats.csv`` and ``frames.csv`` with the dictionary ``columns.csv``, the files of each loop in ``loops/``, and
    ``failures.csv`` with what was left out and why. The same command continues an interrupted run.

    Args:
        inputs: Files and folders, which may also follow the verb (alan analyze LOOPS --out RESULTS); folders are
            searched with all folders in them.
        out: Folder of the results.
        model: Path or name of the model, or the folder of alan export.
        opinions: JSON files of an expert's opinions on the parcels of a structure, saved by alan ui. They revise
            the choice of parcels; an opinion on one phase revises the list of that phase only. null uses none.
        runtime: Library that runs the network: torch, or onnx for onnxruntime (extra onnx). The model is exported
            to ONNX once, unless its folder already contains the program.
        view: View of all loops (A4C), or of those in whose path below the input a text occurs
            ({4CH: A4C, 2CH: A2C}). That of others is recognised, unless a frame store states it.
        mirror: Swap left and right of all loops for the analysis: for laboratories that show the left ventricle on
            the left side. Outlines and pictures keep the orientation of the file.
        patient: Regular expression with the group (?P<patient>...) that finds the patient in the path of a file;
            null takes the patient of the DICOM header, else each loop is a patient.
        spacing: Size of a pixel in mm, or [row, column] if they differ; null takes that of the file.
        frame_rate: Frames per second; null takes the times in the file.
        stills: Analyze files that show a single moment too.
        outputs: Files to write for each loop: overlay (video and pictures with outlines), png (label maps at ED
            and ES), nifti (label maps of all frames), dicom (segmentation and structured report; needs the extra
            dicom).
        dicom_references: UIDs by which the DICOM objects refer to a DICOM file: pseudonymous ones, the same for
            all files of a study (pseudonymous), or those of the file with its patient and study (keep), so that an
            archive shows the objects on the loop; the two files then identify the patient.
        samples: Number of white boxes that are drawn for the intervals; 0 gives no intervals.
        reference: CSV file with the columns patient and ef_percent. The report compares its ejection fractions
            with these; null compares none.
        key: CSV file to write that links pseudonyms to files; it must lie outside the folder of the results.
        workers: Number of processes; null takes one per core.
        device: Device that runs the network: cpu, cuda, cuda:1, or auto for a GPU where there is one.
            The processes share it, so that a few of them suffice.
        strict: Exit with code 1 if a file was left out.
        overwrite: Replace a run with another configuration.

    Returns:
        The folder of the results.

    Raises:
        DataError: An input does not exist, or no loop is found.
        ConfigError: The folder contains a run with another configuration.
        SkippedError: A file cannot be decoded, or was left out and ``strict`` is True; the rest is done.
    """
    from alan.cardiac.areas import pixel_sides

    sides = pixel_sides(spacing)
    several = len(inputs) > 1 or any(Path(path).is_dir() for path in inputs)
    if several and min(workers or usable_cpus(), usable_cpus()) > 1:
        preload_workers("alan.analysis.run")
    from alan.analysis.loop_analysis import LoopSettings
    from alan.analysis.reference import read_reference, write_agreement
    from alan.analysis.run import Analysis, analyze_files
    from alan.analysis.worker import AnalysisSettings
    from alan.report.analysis import write_analysis_report

    if reference is not None:
        read_reference(reference)  # checked before the loops are analyzed

    def finish(found: Analysis) -> None:
        if reference is not None:
            write_agreement(found.folder, found.patients, reference)
        _log.info("%s: open it in a browser", write_analysis_report(found.folder))

    settings = AnalysisSettings(
        model=model,
        opinions=tuple(opinions or ()),
        runtime=runtime,
        loop=LoopSettings(view=view if isinstance(view, str) else None, samples=samples, mirror=mirror),
        spacing=sides,
        frame_rate=frame_rate,
        stills=stills,
        outputs=tuple(outputs),
        dicom_references=dicom_references,
    )
    found = analyze_files(
        inputs,
        out,
        settings,
        patient=patient,
        views=view if isinstance(view, dict) else {},
        key=key,
        workers=workers,
        device=device,
        strict=strict,
        overwrite=overwrite,
        finish=finish,
    )
    return found.folder
