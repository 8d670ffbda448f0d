"""Tiny archives in the official layouts, written with the codecs and libraries that the real ones came from."""

import csv
import os
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

LIST = ("FileName", "EF", "ESV", "EDV", "FrameHeight", "FrameWidth", "FPS", "NumberOfFrames", "Split")
TRACINGS = ("FileName", "X1", "Y1", "X2", "Y2", "Frame")
TABLE = (
    "query_key",
    "SourceFolder",
    "view_label",
    "view_classifier_split",
    "diagnosis_label",
    "diagnosis_classifier_split",
)


def write_csv(path, header, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)


def write_video(path, frames, codec="mjpeg", pixels="yuvj420p", fps=50):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = pixels
        for array in frames:
            frame = av.VideoFrame.from_ndarray(array, format="gray").reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def ellipse(shape, centre, radii):
    rows, columns = np.indices(shape)
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def chords(centre, radii, n=15):
    """Long axis and n chords of an ellipse, as VolumeTracings.csv has them."""
    (y, x), (a, b) = centre, radii
    rows = y + a * np.linspace(-0.98, 0.98, n)
    half = b * np.sqrt(1 - ((rows - y) / a) ** 2)
    return [(x, y - a, x, y + a), *zip(x - half, rows, x + half, rows, strict=True)]


def write_echonet(root, videos=(("0XA", "TRAIN"), ("0XB", "VAL"), ("0XC", "TEST"), ("0XD", "TRAIN")), length=8):
    """Frames 1 (small) and 5 (large) are traced, except in the last video; the EF is 50."""
    table, lines = [], []
    for name, side in videos:
        radii = [(18 - abs(frame - 5), 12 - abs(frame - 5)) for frame in range(length)]
        frames = np.stack([np.where(ellipse((48, 56), (24, 28), r), 30, 180) for r in radii]).astype(np.uint8)
        write_video(root / "Videos" / f"{name}.avi", frames)
        table.append((name, 50.0, 40.0, 80.0, 48, 56, 50, length, side))
        if name != videos[-1][0]:
            for frame in (5, 1):
                lines += [(f"{name}.avi", *line, frame) for line in chords((24, 28), radii[frame])]
    write_csv(root / "FileList.csv", LIST, table)
    write_csv(root / "VolumeTracings.csv", TRACINGS, lines)
    return root


def write_medical(path, array, spacing=(0.5, 0.25), dtype=np.float32):
    """Array (H, W) or (T, H, W); spacing (row, column) in mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array.astype(dtype))
    image.SetSpacing([spacing[1], spacing[0], 1.0][: array.ndim])
    sitk.WriteImage(image, str(path))


def camus_frames(seed, length=5, shape=(40, 60)):
    """Frames and label maps of a heart that shrinks; the LV lies above the LA."""
    noise = np.random.default_rng(seed).integers(0, 40, (length, *shape))
    maps = np.zeros((length, *shape), np.uint8)
    for index in range(length):
        maps[index][ellipse(shape, (15, 30), (12 - index, 9 - index))] = 2
        maps[index][ellipse(shape, (15, 30), (9 - index, 6 - index))] = 1
        maps[index][ellipse(shape, (31, 30), (4, 5))] = 3
    return (noise + 50 * maps).astype(np.uint8), maps


def write_camus(
    root, *, patients=(1, 2, 3), views=("2CH", "4CH"), sequence=True, info=True, lists=True, mhd=False, part=None
):
    """The official NIfTI layout, or the older one with ``mhd=True`` (in ``part``, training by default)."""
    suffix, long = (".mhd", "sequence") if mhd else (".nii.gz", "half_sequence")
    base = root / (part or "training") if mhd else root / "database_nifti"
    for number in patients:
        patient = f"patient{number:04d}"
        for view in views:
            frames, maps = camus_frames(100 * number + len(view) + ord(view[0]))
            stem = base / patient / f"{patient}_{view}"
            stills = (
                (slice(0, 1), slice(4, 5)) if mhd else (0, 4)
            )  # the older release has stills of shape (1, H, W)
            parts = {"ED": stills[0], "ES": stills[1], **({long: slice(None)} if sequence else {})}
            for name, which in parts.items():
                write_medical(Path(f"{stem}_{name}{suffix}"), frames[which], dtype=np.uint8 if mhd else np.float32)
                if name != "sequence":  # the older release has no masks of sequences
                    write_medical(Path(f"{stem}_{name}_gt{suffix}"), maps[which], dtype=np.uint8)
            if info:
                ef = "LVedv: 94.2\nLVesv: 43.3\nLVef: 54" if mhd else "EF: 54\nFrameRate: 49.1"
                text = f"ED: 1\nES: 5\nNbFrame: 5\nSex: F\nAge: 56\nImageQuality: Good\n{ef}\n"
                (base / patient / f"Info_{view}.cfg").write_text(text)
    if lists and not mhd:
        folder = root / "database_split"
        folder.mkdir()
        for number, word in zip(patients, ("training", "validation", "testing"), strict=False):
            (folder / f"subgroup_{word}.txt").write_text(f"patient{number:04d}\n")
    return root


def write_tmed(root, rows=None):
    rows = rows or [
        ("10s1_0.png", "labeled", "PLAX", "train", "no_AS", "train"),
        ("10s1_3.png", "labeled", "A4C", "train", "no_AS", "train"),
        ("10s2_0.png", "labeled", "A4CorA2CorOther", "train", "severe_AS", "train"),
        ("207s1_1.png", "labeled", "PSAX", "val", "no_AS", "val"),
        ("31s1_12.png", "other/folder", "A2C", "test", "Not_Provided", "not_used"),
    ]
    for index, (key, folder, *_) in enumerate(rows):
        path = root / folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (24, 24), np.uint8)).save(path)
    write_csv(root / "labels.csv", TABLE, rows)
    return root


@pytest.fixture
def archives():
    """The writers."""
    return SimpleNamespace(
        echonet=write_echonet,
        camus=write_camus,
        camus_frames=camus_frames,
        tmed=write_tmed,
        csv=write_csv,
        video=write_video,
        medical=write_medical,
        ellipse=ellipse,
        chords=chords,
        table=TABLE,
    )


@pytest.fixture
def real_camus():
    """Folder of the real CAMUS frames."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    root = Path(os.environ.get("ALAN_REAL_DATA", default)) / "CAMUS"
    if not root.is_dir():
        pytest.skip(f"no real frames in {root}")
    return root
