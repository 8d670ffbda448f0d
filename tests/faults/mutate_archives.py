"""Damage the tables, lists and stores of an archive at many places, read each, and count the outcomes.

    python tests/faults/mutate_archives.py KINDS TRIES SEED FOLDER

prints one line of JSON per kind, as ``mutate_models.py`` does. Tables and lists have no check sum, and people edit
them: another number or name is another archive.
"""

import json
from contextlib import suppress
from unittest.mock import patch

import numpy as np
import torch
from mutate_io import FRAMES, campaign, picture, run_kinds, video
from mutate_models import SPEC, backbone, damaged

from alan.analysis.reference import read_reference
from alan.backbone.checkpoint import export_backbone
from alan.backbone.load import load_backbone
from alan.data.preprocessing import Preprocessing
from alan.data.readers.camus import Camus
from alan.data.readers.coco import Coco
from alan.data.readers.echonet import EchoNetDynamic
from alan.data.readers.folder import FrameFolder
from alan.data.splits import read_split
from alan.data.store.reader import FrameStore
from alan.data.store.writer import prepare

SMALL = FRAMES[:, :16, :16]


def samples(dataset):
    """Return all that the samples of an archive hold."""
    return [
        (
            s.record,
            s.frames.tobytes(),
            s.spacing,
            s.ed,
            s.es,
            {name: mask.tobytes() for name, mask in s.masks.items()},
        )
        for s in dataset
    ]


def echonet(folder):
    (folder / "Videos").mkdir()
    (folder / "Videos" / "a.avi").write_bytes(video("avi", "mjpeg", "yuvj420p"))
    rows = "FileName,EF,ESV,EDV,FPS,NumberOfFrames,Split\na.avi,50,40,80,50,5,TRAIN\n"
    (folder / "FileList.csv").write_text(rows)
    lines = [f"a.avi,{16 - w},{y},{16 + w},{y},{f}\n" for f, w in ((1, 9), (3, 5)) for y in (8, 12, 16, 20)]
    axes = [f"a.avi,16,6,16,22,{f}\n" for f in (1, 3)]
    (folder / "VolumeTracings.csv").write_text("FileName,X1,Y1,X2,Y2,Frame\n" + "".join([*axes, *lines]))


def pictures(folder, masks):
    for part, depth in (("images", 1), ("masks", 64))[: 1 + masks]:
        (folder / part).mkdir()
        for index in range(2):
            (folder / part / f"p{index}_1.png").write_bytes(picture("PNG", SMALL[index] // depth))
    (folder / "classes.yaml").write_text("- {name: lv, id: 1}\n- {name: la, id: 2}\n- {name: rv, id: 3}\n")
    (folder / "patients.csv").write_text("file,patient,split\np0_1.png,one,train\np1_1.png,two,test\n")
    head = "image,source,frame,time_s,row_mm,column_mm,height,width,patient\n"
    rows = [f"p{index}_1.png,a.avi,{index},0.1,0.3,0.2,16,16,\n" for index in range(2)]
    (folder / "manifest.csv").write_text(head + "".join(rows))


def coco(folder):
    pictures(folder, masks=False)
    images = [{"id": i, "file_name": f"p{i}_1.png", "height": 16, "width": 16} for i in range(2)]
    outline = [[2, 2, 9, 2, 9, 9]]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "segmentation": outline} for i in range(2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "lv"}]}
    (folder / "instances.json").write_text(json.dumps(content))


def camus(folder):
    import gzip

    from mutate_io import nifti

    base = folder / "database_nifti" / "patient0001"
    base.mkdir(parents=True)
    whole = gzip.decompress(nifti(True))
    (base / "patient0001_4CH_half_sequence.nii").write_bytes(whole)
    (base / "Info_4CH.cfg").write_text("ED: 1\nES: 4\nNbFrame: 5\nSex: F\nAge: 56\nImageQuality: Good\nEF: 54\n")


def store(folder):
    pictures(folder, masks=True)
    prepare(FrameFolder(folder), folder / "s.h5", Preprocessing(12), workers=0, progress=False)


def read_store(path):
    found = FrameStore(path)
    stated = found.name, found.fingerprint, found.source, found.structures, found.skipped, found.leaks
    masks = [
        mask.tobytes()
        for name in found.structures
        for index in range(2)
        for mask in (found.masks([index], name), found.original_mask(index, name))
    ]
    return stated, found.sequences, found.label_frames.tolist(), found.frames(range(2)).tobytes(), masks


def unfinished_store(folder):
    """What a killed run leaves: the log of its samples."""
    with patch("alan.data.store.writer._write", side_effect=KeyboardInterrupt), suppress(KeyboardInterrupt):
        store(folder)


def finish_store(path):
    folder = path.parent
    prepare(FrameFolder(folder), folder / "s.h5", Preprocessing(12), workers=0, progress=False)
    found = read_store(folder / "s.h5")
    (folder / "s.h5").unlink()
    return found


def split(folder):
    (folder / "split.yaml").write_text("train: 1-300, 7\nval: [301, 302]\ntest: patient0400\n")


def reference(folder):
    (folder / "ef.csv").write_text("patient,ef_percent\np1,54.5\np2,60\n")


def features(path):
    with torch.no_grad():
        return load_backbone(f"{path}?heads=2" if path.suffix == ".pth" else path)(SMALL[:3]).cls.numpy().tobytes()


#: Kind to (writer of the archive, file that is damaged, function that reads the archive in a folder).
KINDS = {
    "EchoNet list": (echonet, "FileList.csv", lambda path: samples(EchoNetDynamic(path.parent))),
    "EchoNet tracings": (echonet, "VolumeTracings.csv", lambda path: samples(EchoNetDynamic(path.parent))),
    "CAMUS Info": (
        camus,
        "database_nifti/patient0001/Info_4CH.cfg",
        lambda path: samples(Camus(path.parents[2], views=["A4C"])),
    ),
    "class list": (
        lambda folder: pictures(folder, masks=True),
        "classes.yaml",
        lambda path: samples(FrameFolder(path.parent)),
    ),
    "patients": (
        lambda folder: pictures(folder, masks=True),
        "patients.csv",
        lambda path: samples(FrameFolder(path.parent)),
    ),
    "manifest": (
        lambda folder: pictures(folder, masks=True),
        "manifest.csv",
        lambda path: samples(FrameFolder(path.parent)),
    ),
    "COCO": (coco, "instances.json", lambda path: samples(Coco(path.parent))),
    "split": (split, "split.yaml", read_split),
    "reference": (reference, "ef.csv", read_reference),
    "store": (store, "s.h5", read_store),
    "unfinished store": (unfinished_store, "s.h5.part", finish_store),
    "backbone": (
        lambda folder: export_backbone(backbone().network, SPEC, folder / "b.safetensors"),
        "b.safetensors",
        features,
    ),
    "checkpoint": (
        lambda folder: torch.save(backbone().network.state_dict(), folder / "b.pth"),
        "b.pth",
        features,
    ),
}


def damage(kind, tries, seed, folder):
    write, name, read = KINDS[kind]
    write(folder)
    path = folder / name
    whole, expected = path.read_bytes(), read(path)
    ways = damaged(whole, tries, np.random.default_rng(seed))
    return campaign(ways, path, lambda: read(path), lambda found, way: found == expected)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_kinds(damage)
