"""Recompute a set of figures through the command line and print them as JSON, to compare two versions of the code.

    python tests/benchmarks/recompute.py --work figures > before.json

Everything runs on a small simulated archive and takes three minutes on two cores. Trainings take a few steps:
their weights are compared, not their quality. Hashes are of arrays, never of files, so that names and versions may
change. The hashes of trainings depend on the number of threads, but not on their order: a second run on the same
machine prints the same ones.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image
from safetensors.numpy import load_file

CONFIGS = Path(__file__).parents[2] / "configs"


def run(*args):
    """Run a verb of the version under test."""
    done = subprocess.run(
        [sys.executable, "-m", "alan", *map(str, args)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"alan {' '.join(map(str, args))}\n{done.stderr}")


def short(arrays):
    """A short hash of named arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode() + array.tobytes())
    return digest.hexdigest()[:12]


def hdf5(path, *names):
    with h5py.File(path) as file:
        return short({name: file[name][()] for name in names})


def fit(work, name, out, **options):
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.max_steps", 3, "--trainer.log_every_n_steps", 1]
    extra = [part for key, value in options.items() for part in (f"--{key.replace('__', '.')}", value)]
    run("fit", "--config", CONFIGS / name, "--out", work / out, *quiet, *extra)
    return next((work / out).glob("*.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    work = parser.parse_args().work
    found = {}
    run(
        "simulate",
        "--out",
        work / "camus",
        "--layout",
        "camus",
        "--n_patients",
        16,
        "--views",
        "[A4C]",
        "--size",
        112,
    )
    store = work / "camus.h5"
    run("prepare", "--kind", "camus", "--root", work / "camus", "--out", store)
    found["store"] = hdf5(store, "frames", "labels/maps")
    run("segment", "--input", store, "--frames", "annotated", "--out", work / "segment")
    masks = {path.name: np.asarray(Image.open(path)) for path in (work / "segment" / "masks").glob("*.png")}
    found["segment: masks"] = short(masks)
    found["segment: mean area"] = (
        pd.read_csv(work / "segment" / "segments.csv").groupby("structure")["area_px"].mean().round(3).to_dict()
    )
    common = ["--store", store, "--backbone", "alan-sim-small"]
    run("parcels", *common, "--n_parcels", 16, "--frames", 2, "--out", work / "parcels")
    found["k-means parcels"] = short(load_file(work / "parcels" / "parcels.safetensors"))
    run(
        "name",
        "--parcels",
        "alan-sim-small-parcels",
        "--store",
        store,
        "--split",
        "train",
        "--out",
        work / "names",
    )
    for structure in ("lv", "myo", "la"):
        named = json.loads((work / "names" / f"{structure}.json").read_text())
        found[f"list of {structure}"] = named["selector"]["interior"]
    run("cache", *common, "--out", work / "cache.h5", "--features", "[cls, tokens]", "--frames", 2)
    found["cache"] = hdf5(work / "cache.h5", "cls", "tokens")
    data = {"data__init_args__stores": f"[{store}]", "data__init_args__batch_size": 4}
    backbone = fit(work, "dino/tiny_demo.yaml", "dino", **data)
    found["DINO, 3 steps"] = short(load_file(backbone))
    run(
        "cache",
        "--store",
        store,
        "--backbone",
        backbone,
        "--out",
        work / "tokens.h5",
        "--features",
        "[tokens]",
        "--frames",
        8,
        "--stride",
        4,
        "--split",
        "train",
    )
    raptor = fit(
        work,
        "raptor/raptor_demo.yaml",
        "raptor",
        data__init_args__cache=work / "tokens.h5",
        data__init_args__store=store,
        model__init_args__backbone=backbone,
    )
    found["RAPTOR, 3 steps"] = short(load_file(raptor))
    found["simulation, 3 steps"] = short(
        load_file(fit(work, "sim/small.yaml", "sim", trainer__precision="32-true", **data))
    )
    unet = fit(work, "supervised/unet_tiny_simulated.yaml", "unet", trainer__precision="32-true", **data)
    found["U-Net, 3 steps"] = short(load_file(unet))
    protocol = {
        "store": str(store),
        "parcels": {"shipped": "alan-sim-small-parcels"},
        "structures": ["lv", "myo", "la"],
        "label_split": "val",
        "train_split": None,
        "kmeans": [],
        "random_vit": False,
    }
    settings = work / "evaluate.yaml"
    settings.write_text(json.dumps({"segmentation": protocol}))
    run("evaluate", "--config", settings, "--out", work / "evaluate")
    cases = pd.read_csv(work / "evaluate" / "per_case.csv")
    keys = [name for name in ("parcels", "method", "rule", "structure", "phase") if name in cases]
    found["evaluation: Dice"] = {
        " ".join(map(str, key)): round(value, 6) for key, value in cases.groupby(keys)["dice"].mean().items()
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
