"""Extract stills from cine loops: the command ``alan frames``."""

from __future__ import annotations

import contextlib
import csv
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from alan.bounds import PositiveInt, bounded
from alan.data.io.base import Cine
from alan.data.io.cine import DICOM, VIDEOS, is_cine, read_cine, stem
from alan.data.io.medical import MEDICAL
from alan.data.readers.manifest import COLUMNS, MANIFEST, manifest_row
from alan.errors import AlanWarning, DataError

_log = logging.getLogger(__name__)


@bounded
def extract_frames(root: str, out: str, *, every: PositiveInt = 1) -> None:
    """Take stills out of cine loops (AVI, MP4, DICOM, NIfTI, MHD).

    Writes ``images/NAME_0001.png`` (grey, the number counts the frames of the loop from 1) and ``manifest.csv``
    with the columns image, source, frame, time_s, row_mm, column_mm, height, width and patient (a pseudonym, from
    the header of DICOM files; what is unknown is empty), as :class:`alan.data.FrameFolder` reads them. NAME is
    the loop's path below ``root``, folders joined by ``_``, without suffix. Loops that cannot be decoded are
    skipped, counted and warned of. All or nothing is written. What is burnt into the pictures stays there, a
    patient's name too.

    Args:
        root: a cine loop, or a folder in which all are looked for.
        out: folder to write into; it must not hold ``images`` or ``manifest.csv`` yet.
        every: take each n-th frame, from the first.

    Raises:
        ParameterError: ``every`` is below 1.
        DataError: no loop there, none that can be decoded, two of the same name, or stills are already there.
    """
    source, target = Path(root), Path(out)
    names = _names(source)
    for path in (target / "images", target / MANIFEST):
        if path.exists():
            raise DataError(f"{path}: is already there; write to another folder, or take it away")
    part = target / f".frames.{os.getpid()}.part"
    try:
        (part / "images").mkdir(parents=True)
        with (part / MANIFEST).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            failures, count = [], 0
            for path, name in tqdm(names.items(), desc="take stills", unit="loop"):
                try:
                    video = read_cine(path)
                except DataError as error:
                    failures.append(str(error))
                    continue
                shown = path.name if source.is_file() else path.relative_to(source).as_posix()
                folder = part / "images"
                count += _write_stills(video, folder, name, source=shown, every=every, writer=writer)
        if len(failures) == len(names):
            raise DataError(f"{root}: none of {len(names)} cine loops can be decoded; the first: {failures[0]}")
        (part / "images").replace(target / "images")
        (part / MANIFEST).replace(target / MANIFEST)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty, or never made
            target.rmdir()
    if failures:
        warnings.warn(
            f"skipped {len(failures)} of {len(names)} cine loops that cannot be decoded, the first: {failures[0]}",
            AlanWarning,
            stacklevel=2,
        )
    _log.info("%s: %d stills of %d cine loops", target, count, len(names) - len(failures))


def _names(source: Path) -> dict[Path, str]:
    """Cine loops and the names of their stills."""
    if source.is_file():
        return {source: stem(source.name)}
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    names: dict[Path, str] = {}
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.name[0] != "." and is_cine(path):
            *folders, last = path.relative_to(source).parts
            names[path] = "_".join([*folders, stem(last)])
    if not names:
        known = ", ".join((*VIDEOS, *MEDICAL, *DICOM))
        raise DataError(f"{source}: holds no cine loop ({known}, or DICOM under any name)")
    first: dict[str, Path] = {}
    for path, name in names.items():
        if first.setdefault(name, path) != path:
            raise DataError(f"{first[name]} and {path} would both be written as {name!r}: rename one")
    return names


def _write_stills(video: Cine, folder: Path, name: str, *, source: str, every: int, writer: Any) -> int:
    """Write each n-th frame and its row; the number of them."""
    indices = range(0, len(video.frames), every)
    for index in indices:
        image = f"{name}_{index + 1:04d}.png"
        Image.fromarray(video.frames[index]).save(folder / image)
        writer.writerow(
            manifest_row(
                image,
                source,
                index + 1,
                video.frames.shape[1:],
                time=None if video.fps is None else index / video.fps,
                spacing=video.spacing,
                patient=video.patient,
            )
        )
    return len(indices)
