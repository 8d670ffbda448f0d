"""Official layouts: writers of simulated patients and of the lists of an archive."""

from __future__ import annotations

import abc
import gzip
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from alan.arrays import ByteArray
from alan.data.simulator.anatomy import PatientAnatomy
from alan.data.simulator.scene import LA, LV, MYO
from alan.data.simulator.screen import simulate_screen
from alan.data.simulator.sequence import SimulatedSequence, simulate_sequence
from alan.data.simulator.tracing import trace
from alan.files import atomic, write_bytes, write_text

#: Rows of a patient in the lists of the archive.
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class PatientJob:
    """Everything needed to write one patient.

    Attributes:
        root: Folder of the archive.
        number: Number of the patient, from 1.
        anatomy: Anatomy of the patient, shared by the views.
        seed: Entropy of the clips of the patient.
        split: ``train``, ``val`` or ``test``.
        views: Views to write.
        n_frames: Frames per clip (images per view and study in TMED-2).
        shape: (H, W) of the frames.
    """

    root: Path
    number: int
    anatomy: PatientAnatomy
    seed: tuple[int, ...]
    split: str
    views: tuple[str, ...]
    n_frames: int
    shape: tuple[int, int]

    def simulate(self, view: str, **options: Any) -> SimulatedSequence:
        """Simulate a clip of this patient with the size, length and seed of the job."""
        chosen: dict[str, Any] = {"n_frames": self.n_frames, "seed": self.seed, **options}
        return simulate_sequence(view, self.anatomy, size=self.shape, **chosen)


class Layout(abc.ABC):
    """Writer of one official layout.

    Attributes:
        views: Views of the layout, simulated by default.
        more_views: Views that can be simulated on request, beyond the official ones.
        n_frames: Default number of frames.
        min_frames: Minimum number of frames.
        size: Default (H, W).
    """

    views: ClassVar[tuple[str, ...]]
    more_views: ClassVar[tuple[str, ...]] = ()
    n_frames: ClassVar[int]
    min_frames: ClassVar[int] = 2
    size: ClassVar[tuple[int, int]] = (112, 112)

    @abc.abstractmethod
    def write_patient(self, job: PatientJob) -> Rows:
        """Write the files of a patient (each atomically) and return the rows for the lists."""

    @abc.abstractmethod
    def finish(self, root: Path, jobs: Iterable[PatientJob], rows: Iterable[Rows]) -> None:
        """Write the lists of the archive, in the order of the patients."""


class EchoNetLayout(Layout):
    """EchoNet-Dynamic: one A4C video per patient, ``FileList.csv`` and ``VolumeTracings.csv``."""

    views = ("A4C",)
    n_frames = 32

    @override
    def write_patient(self, job: PatientJob) -> Rows:
        clip = job.simulate("A4C", beats=1.5)
        name = f"0X{np.random.SeedSequence([*job.seed, 1]).generate_state(1, np.uint64)[0]:016X}"
        write_avi(job.root / "Videos" / f"{name}.avi", clip.frames, clip.fps)
        file = {
            "FileName": name,
            "EF": round(clip.ef_percent, 4),
            "ESV": round(clip.esv_ml, 4),
            "EDV": round(clip.edv_ml, 4),
            "FrameHeight": job.shape[0],
            "FrameWidth": job.shape[1],
            "FPS": round(clip.fps, 2),
            "NumberOfFrames": len(clip.frames),
            "Split": job.split.upper(),
        }
        tracings = []
        for frame in sorted((clip.ed, clip.es)):
            for x1, y1, x2, y2 in trace(clip.labels[frame] == LV, clip.long_axis[frame]).round(4).tolist():
                tracings.append(
                    {"FileName": f"{name}.avi", "X1": x1, "Y1": y1, "X2": x2, "Y2": y2, "Frame": frame}
                )
        return [file, *tracings]

    @override
    def finish(self, root: Path, jobs: Iterable[PatientJob], rows: Iterable[Rows]) -> None:
        patients = list(rows)
        write_csv(root / "FileList.csv", [patient[0] for patient in patients])
        write_csv(root / "VolumeTracings.csv", [row for patient in patients for row in patient[1:]])


class CamusLayout(Layout):
    """CAMUS: NIfTI stills and half sequences with masks, Info files, split lists; A4C is ``4CH``, A2C ``2CH``.

    PLAX and PSAX, which CAMUS does not have, are written under their own names if they are asked for. Masks extend
    outside the sector where the heart does, as in the real dataset.
    """

    views = ("A2C", "A4C")
    more_views = ("PLAX", "PSAX")
    n_frames = 10
    size = (128, 160)

    @override
    def write_patient(self, job: PatientJob) -> Rows:
        name = f"patient{job.number:04d}"
        folder = job.root / "database_nifti" / name
        rng = np.random.default_rng(np.random.SeedSequence([*job.seed, 2]))
        sex, age = ("F", "M")[int(rng.integers(2))], int(rng.integers(25, 90))
        quality = ("Good", "Medium", "Poor")[min(int(3 * job.anatomy.habitus), 2)]
        for view in job.views:
            chamber = {"A4C": "4CH", "A2C": "2CH"}.get(view, view)
            clip = job.simulate(view, systole_only=True, labels_outside=True)
            truth = np.where(np.isin(clip.labels, (LV, MYO, LA)), clip.labels, 0).astype(np.uint8)
            stem = f"{name}_{chamber}"
            for part, index in (("ED", clip.ed), ("ES", clip.es), ("half_sequence", slice(None))):
                write_nifti(folder / f"{stem}_{part}.nii.gz", clip.frames[index], clip.spacing_mm)
                write_nifti(folder / f"{stem}_{part}_gt.nii.gz", truth[index], clip.spacing_mm)
            info = {
                "ED": clip.ed + 1,
                "ES": clip.es + 1,
                "NbFrame": len(clip.frames),
                "Sex": sex,
                "Age": age,
                "ImageQuality": quality,
                "EF": round(clip.ef_percent),
                "FrameRate": round(clip.fps, 1),
            }
            write_text(folder / f"Info_{chamber}.cfg", "".join(f"{key}: {value}\n" for key, value in info.items()))
        return []

    @override
    def finish(self, root: Path, jobs: Iterable[PatientJob], rows: Iterable[Rows]) -> None:
        patients = list(jobs)
        for split, name in (("train", "training"), ("val", "validation"), ("test", "testing")):
            listed = [f"patient{job.number:04d}\n" for job in patients if job.split == split]
            write_text(root / "database_split" / f"subgroup_{name}.txt", "".join(listed))


class TmedLayout(Layout):
    """TMED-2: single images of four views and a CSV; every fourth patient has two studies, the others one."""

    views = ("A2C", "A4C", "PLAX", "PSAX")
    n_frames = 2
    min_frames = 1
    folder = "view_and_diagnosis_labeled_set/labeled"

    @override
    def write_patient(self, job: PatientJob) -> Rows:
        rows: Rows = []
        diagnosis = ("no_AS", "early_AS", "significant_AS")[int(3 * job.anatomy.habitus) % 3]
        for study in range(1, 3 if job.number % 4 == 0 else 2):
            image = 0
            for view in job.views:
                for still in range(job.n_frames):
                    clip = job.simulate(view, n_frames=1, seed=(*job.seed, study, still))
                    key = f"{1000 + job.number}s{study}_{image}.png"
                    with atomic(job.root / self.folder / key) as path:
                        Image.fromarray(clip.frames[0]).save(path, format="PNG")
                    rows.append(
                        {
                            "query_key": key,
                            "SourceFolder": self.folder,
                            "view_label": view,
                            "view_classifier_split": job.split,
                            "diagnosis_label": diagnosis,
                            "diagnosis_classifier_split": job.split,
                        }
                    )
                    image += 1
        return rows

    @override
    def finish(self, root: Path, jobs: Iterable[PatientJob], rows: Iterable[Rows]) -> None:
        write_csv(root / "TMED2_fold0_labeledpart.csv", [row for patient in rows for row in patient])


class ClinicLayout(Layout):
    """Loops as machines export them: one AVI per patient and view, with text, ECG and rulers on the screen.

    ``ef.csv`` has the ejection fraction and the volumes of each patient. The shape of the screen is drawn for each
    loop.
    """

    views = ("A4C", "A2C")
    n_frames = 48

    @override
    def write_patient(self, job: PatientJob) -> Rows:
        name = f"patient{job.number:03d}"
        for number, view in enumerate(job.views):
            seed = int(np.random.SeedSequence([*job.seed, number]).generate_state(1)[0])
            screen = simulate_screen(
                seed,
                n_frames=job.n_frames,
                view=view,
                patient=job.anatomy,
                beats=_CLINIC_BEATS,
                half_angles=_CLINIC_ANGLES,
            )
            write_avi(job.root / "loops" / f"{name}_{view}.avi", screen.frames, screen.clips[0].fps)
        edv, esv = job.anatomy.volume_ml(0.0), job.anatomy.volume_ml(1.0)
        values = {"ef_percent": 100 * (edv - esv) / edv, "edv_ml": edv, "esv_ml": esv}
        return [{"patient": name, **{key: round(value, 2) for key, value in values.items()}}]

    @override
    def finish(self, root: Path, jobs: Iterable[PatientJob], rows: Iterable[Rows]) -> None:
        write_csv(root / "ef.csv", [row for patient in rows for row in patient])


#: Heart beats of a loop, and smallest and largest half of the opening angle in degrees, of the clinic layout.
_CLINIC_BEATS, _CLINIC_ANGLES = 1.8, (32.0, 48.0)
LAYOUTS: Mapping[str, Layout] = {
    "echonet": EchoNetLayout(),
    "camus": CamusLayout(),
    "tmed": TmedLayout(),
    "clinic": ClinicLayout(),
}


def write_csv(path: Path, rows: Rows) -> None:
    """Write a CSV file atomically, with columns in the order of the first row."""
    with atomic(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")


def write_avi(path: Path, frames: ByteArray, fps: float) -> None:
    """Write a grey AVI file atomically with the lossless codec FFV1 and without a creation time.

    Args:
        path: Path of the file.
        frames: (T, H, W) uint8.
        fps: Frames per second, rounded to a thousandth.
    """
    import av  # only files of loops need a video library

    options = {"fflags": "+bitexact"}
    with atomic(path) as temporary, av.open(os.fspath(temporary), "w", format="avi", options=options) as container:
        stream = container.add_stream("ffv1", rate=Fraction(round(fps * 1000), 1000))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "gray"
        stream.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode(None))


def write_nifti(path: Path, array: NDArray[np.uint8], spacing: tuple[float, float]) -> None:
    """Write a compressed NIfTI file atomically; the first axis of the file is the width, as in CAMUS.

    Args:
        path: Path of the file, ``.nii.gz``.
        array: (H, W) or (T, H, W) uint8.
        spacing: (row, column) in mm; the distance between frames is 1.
    """
    from nibabel import Nifti1Image  # half a second

    affine = np.diag([-spacing[1], -spacing[0], 1.0, 1.0])  # x runs to the right, y down, as in ITK
    image: Any = Nifti1Image(array.T, affine)  # type: ignore[no-untyped-call]
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    write_bytes(path, gzip.compress(image.to_bytes(), 6, mtime=0))
