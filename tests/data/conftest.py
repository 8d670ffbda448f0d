"""Tiny archives in the official layouts, written with the codecs and libraries of the real ones."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace

import av
import h5py
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from .memory_archive import memory  # noqa: F401 (a fixture)

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


def save_picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def acdc_volume(seed, depth=3, shape=(40, 36)):
    """MR-like grey values (beyond 255) and labels: RV 1, myocardium 2, LV 3; the heart shrinks with the slice."""
    noise = np.random.default_rng(seed).integers(10, 200, (depth, *shape))
    labels = np.zeros((depth, *shape), np.uint8)
    for index in range(depth):
        labels[index][ellipse(shape, (20, 10), (6 - index, 4))] = 1
        labels[index][ellipse(shape, (20, 22), (9 - index, 8 - index))] = 2
        labels[index][ellipse(shape, (20, 22), (5 - index, 4 - index))] = 3
    return (noise + 300.0 * labels).astype(np.int16), labels


def write_acdc(root, *, patients=(1, 2, 101), hdf5=False, info=True):
    """The official layout (patients from 101 on are in testing), or slices in HDF5 with ``hdf5=True``."""
    for number in patients:
        patient = f"patient{number:03d}"
        folder = root / ("testing" if number > 100 else "training") / patient
        for frame, seed in (("01", 2 * number), ("02" if hdf5 else "12", 2 * number + 1)):
            grey, labels = acdc_volume(seed)
            if hdf5:
                (root / "slices").mkdir(parents=True, exist_ok=True)
                scaled = ((grey - grey.min()) / (grey.max() - grey.min())).astype(np.float32)
                for index, (image, label) in enumerate(zip(scaled, labels, strict=True), start=1):
                    path = root / "slices" / f"{patient}_frame{frame}_slice_{index}.h5"
                    with h5py.File(path, "w") as file:
                        file["image"], file["label"] = image, label
            else:
                write_medical(folder / f"{patient}_frame{frame}.nii.gz", grey, (1.5, 1.25), np.int16)
                write_medical(folder / f"{patient}_frame{frame}_gt.nii.gz", labels, (1.5, 1.25), np.uint8)
        if info and not hdf5:
            text = "ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
            (folder / "Info.cfg").write_text(text)
    return root


#: Pictures of three patients, and classes that no archive has; the ids have gaps.
FOLDER_NAMES = ("p1_a4c_0001", "p1_a4c_0002", "p2_a4c_0001", "p3_plax_0001")
CLASSES = {"ventricle": (3, (255, 0, 0)), "valve": (7, (0, 255, 0)), "lv": (200, (10, 20, 30))}


def folder_picture(seed, shape=(30, 44)):
    """Grey picture and positions in ``CLASSES``, counted from 1."""
    positions = np.zeros(shape, np.uint8)
    positions[4:12, 5:20] = 1
    positions[12:16, 5:20] = 2
    positions[20:28, 25:40] = 3
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8), positions


def write_folder(root, *, names=FOLDER_NAMES, coloured=False, table=False):
    ids = np.array([0, *(number for number, _ in CLASSES.values())], np.uint8)
    colours = np.array([(0, 0, 0), *(colour for _, colour in CLASSES.values())], np.uint8)
    for seed, name in enumerate(names):
        grey, positions = folder_picture(seed)
        save_picture(root / "images" / f"{name}.png", grey)
        save_picture(root / "masks" / f"{name}.png", (colours if coloured else ids)[positions])
    rows = [(name, number, "#{:02x}{:02x}{:02x}".format(*colour)) for name, (number, colour) in CLASSES.items()]
    write_csv(root / "classes.csv", ("name", "id", "colour"), rows)
    if table:
        facts = [(f"{name}.png", name[:2], "train" if name < "p3" else "test", "A4C") for name in names]
        write_csv(root / "patients.csv", ("file", "patient", "split", "view"), facts)
    return root


def write_coco(root):
    """The rectangles of ``folder_picture`` as polygons; ids of images and categories are no positions."""
    categories = [{"id": number, "name": name} for name, (number, _) in CLASSES.items()]
    boxes = ((5, 4, 20, 12), (5, 12, 20, 16), (25, 20, 40, 28))
    images, annotations = [], []
    for seed, name in enumerate(FOLDER_NAMES):
        save_picture(root / "images" / f"{name}.png", folder_picture(seed)[0])
        images.append({"id": 50 + seed, "file_name": f"{name}.png", "height": 30, "width": 44})
        for category, (left, top, right, bottom) in zip(categories, boxes, strict=True):
            outline = [left, top, right, top, right, bottom, left, bottom]
            annotation = {"id": len(annotations), "image_id": 50 + seed, "category_id": category["id"]}
            annotations.append({**annotation, "segmentation": [outline], "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    return root


def write_segments(root):
    """Instance 1 and 300 are ventricles, 2 a valve, 70000 an lv; category ids start at 0."""
    keys = np.array([0, 1, 2, 70000, 300])
    samples = []
    for seed, name in enumerate(FOLDER_NAMES):
        grey, positions = folder_picture(seed)
        positions[4:12, 13:20] = 4
        save_picture(root / "images" / f"{name}.png", grey)
        codes = keys[positions]
        opaque = np.where(codes > 0, 255, 0)
        bitmap = np.stack([codes & 255, codes >> 8 & 255, codes >> 16, opaque], axis=-1).astype(np.uint8)
        save_picture(root / "labels" / f"{name}_label_ground-truth.png", bitmap)
        pairs = ((1, 0), (2, 1), (70000, 2), (300, 0))
        label = {
            "label_status": "LABELED",
            "attributes": {
                "format_version": "0.1",
                "annotations": [{"id": key, "category_id": category} for key, category in pairs],
                "segmentation_bitmap": {"url": f"https://example.org/assets/{seed}-uuid.png?key=1"},
            },
        }
        image = {"image": {"url": f"https://example.org/assets/{seed}-image.png"}}
        samples.append({"name": f"{name}.png", "attributes": image, "labels": {"ground-truth": label}})
    categories = [{"name": name, "id": index, "color": [1, 2, 3]} for index, name in enumerate(CLASSES)]
    dataset = {
        "name": "echo",
        "task_type": "segmentation-bitmap",
        "task_attributes": {"format_version": "0.1", "categories": categories},
        "labelsets": [{"name": "ground-truth"}, {"name": "predictions"}],
        "samples": samples,
    }
    (root / "release.json").write_text(json.dumps({"name": "v1", "dataset": dataset}))
    return root


@pytest.fixture
def archives():
    """Functions that write tiny archives."""
    return SimpleNamespace(
        echonet=write_echonet,
        camus=write_camus,
        camus_frames=camus_frames,
        tmed=write_tmed,
        acdc=write_acdc,
        acdc_volume=acdc_volume,
        folder=write_folder,
        folder_picture=folder_picture,
        coco=write_coco,
        segments=write_segments,
        classes=CLASSES,
        picture=save_picture,
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
