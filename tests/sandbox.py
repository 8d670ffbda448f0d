"""A working folder in which any command of the documentation or of a configuration runs in a second.

Files and archives that a command reads, and that no earlier command wrote, are put there by name: frame stores,
untrained models, archives, pictures. Options that make the work small are added to the command.
"""

import copy
import csv
import json
import re
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image

from alan.analysis.manifest import Manifest
from alan.backbone.load import random_backbone
from alan.backbone.simulation.network import DenseNetwork
from alan.backbone.vit import VitSpec
from alan.cli.main import main
from alan.data.store.reader import FrameStore
from alan.downstream import ExpertOpinion, ParcelSegmenter
from alan.downstream.members import save_ensemble
from alan.downstream.whitebox.opinion import Opinion
from alan.shipped import config_file, shipped
from alan.supervised.ensemble import EnsembleSegmenter
from alan.supervised.networks import NetworkSpec
from alan.supervised.segmenter import load_segmenter, save_segmenter

from .discs import untrained_segmenter

#: A file that a text names, by what it ends in.
_FILE = re.compile(r"(?<![\w.*<>/-])[\w./-]+\.(?:h5|safetensors|jsonl|json|pth|ckpt|yaml)\b")
#: Options and keys that name what is read from a folder, and what is written.
_ROOTS, _OUTPUTS = ("root", "input"), ("out", "work")
#: One step of a training, on the CPU of this machine.
ONE_STEP = ("--trainer.max_steps=1", "--trainer.devices=1", "--trainer.accelerator=cpu")
ONE_STEP += ("--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false")
ONE_STEP += ("--data.init_args.batch_size=2", "--data.init_args.num_workers=0")
#: A DINO network of the same patches, width and crops, with one block and a narrow head.
SHALLOW = {"network.depth": 1, "outputs": 64, "hidden": 32, "bottleneck": 16}


def layout_of(path):
    """The layout of the archive that a path names; most are CAMUS-like."""
    return next((layout for layout in ("echonet", "tmed", "acdc") if layout in str(path).lower()), "camus")


def seed_of(path):
    """Simulated archives are of other patients."""
    return int("sim" in str(path))


def strings(value) -> Iterator[str]:
    """Every text in a configuration, except for output paths."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from strings(part if key not in _OUTPUTS else None)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value


class Command:
    """The words of a command and the configuration that it names."""

    def __init__(self, args) -> None:
        self.args = [str(arg) for arg in args]
        self.verb = " ".join(self.args[:2]) if self.args[0] == "active" else self.args[0]
        words = self.args[len(self.verb.split()) :]
        n = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
        self.files = words[:n]  # before the options
        self.options = dict(_pairs(words[n:]))
        self.name = self.options.get("config", "")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration that the command names."""
        return yaml.safe_load(config_file(self.name).read_text(encoding="utf-8")) if self.name else {}

    def option(self, name, default=None):
        """The value of an option of a verb, from the command or from its configuration."""
        value = self.options.get(name, self.config.get(name, default))
        return yaml.safe_load(value) if isinstance(value, str) else value

    def inputs(self) -> Iterator[str]:
        """Texts that may name inputs."""
        yield from strings(self.config)
        yield from (value for name, value in self.options.items() if name not in _OUTPUTS)

    @property
    def signature(self):
        """Identify a kind of command: everything but values, except for the structures and the phases."""
        name = self.name.removeprefix("configs/").removesuffix(".yaml")
        told = ("structures", "phases")
        options = {f"{key}={text}" if key in told else key for key, text in self.options.items()}
        return (self.verb, name, *sorted(options))


def _pairs(words) -> Iterator[tuple[str, str]]:
    words = iter(words)
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        yield name, value if equals else next(words, "")


def blank(save):
    """Replace what saves figures: a PNG stays blank, because other tests look at what is drawn."""

    def save_figure(figure, file, **options):
        if options["format"] == "png":
            Image.new("L", (8, 8)).save(file, format="png")
        else:
            save(figure, file, **options)

    return save_figure


class Sandbox:
    """The folder; it must be the current one while commands run.

    Args:
        folder: an empty folder.
        tiny: the fixture of tiny archives and models.
        size: height and width of the frames of stores.
    """

    def __init__(self, folder, tiny, size=112) -> None:
        self.folder, self.tiny, self.size = Path(folder), tiny, size
        self.made: set[Path] = set()

    def __call__(self, *args, small=()) -> int:
        """Run a command with its inputs in place and its work made small; its exit code."""
        for arg in map(str, args):
            self.provide(arg if arg.endswith("best.yaml") else "")
        command = Command(args)
        out = Path(str(command.option("out", "none")))
        if any(path.is_relative_to(out) for path in self.made):
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        for text in command.inputs():
            self.provide(text)
        for name in command.files if command.verb in ("analyze", "active suggest", "calibrate") else ():
            self.provide_folder(name)
        if command.verb != "simulate":
            for name in _ROOTS:
                self.provide_folder(command.option(name))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Figure, "savefig", blank(Figure.savefig))
            if command.verb == "export":  # tests/analysis/test_model_export.py exports further models too
                patch.setattr(Manifest, "load_others", lambda _: {})
            return main([*command.args, *self.small(command), *small])

    # Inputs

    def provide(self, text) -> None:
        """Put every file that a text names where it is looked for, unless it is there."""
        for name in _FILE.findall(text):
            path = Path(name)
            if len(path.parts) > 1 and not path.exists() and not path.is_absolute() and name not in shipped():
                path.parent.mkdir(parents=True, exist_ok=True)
                if self._make(path):
                    self.made.add(path)

    def _make(self, path) -> bool:
        """Make the stand-in for a file; false where there is none of its name."""
        name = str(path)
        if path.suffix == ".yaml":
            return self._make_config(path)
        structure = re.match("(lv|myo|la)(?![a-z])", path.stem)
        if path.suffix == ".h5":
            shutil.copy(self.tiny.store(layout_of(name), seed_of(name), size=self.size), path)
        elif path.suffix == ".jsonl":
            path.write_text('{"step": 0, "loss": 2.0}\n{"step": 1, "loss": 1.0}\n', encoding="utf-8")
        elif path.stem == "segmenter":
            save_segmenter(self._network(name), path)
        elif path.stem == "ensemble":
            files = {n: path.with_name(f"member{n}.safetensors") for n in "ab"}
            for n, file in enumerate(files.values()):
                save_segmenter(self._network(name, n), file)
            save_ensemble(EnsembleSegmenter({n: load_segmenter(file) for n, file in files.items()}), path, files)
        elif path.suffix == ".safetensors" and re.search("parcel|raptor|refined", name):
            shutil.copy(self.tiny.parcels(), path)
        elif path.suffix == ".safetensors" and re.search("sim_(?!vit|joint|then)|adapted", name):
            shutil.copy(shipped()["alan-sim-small"], path)
        elif path.suffix == ".safetensors":
            shutil.copy(self.tiny.backbone(), path)
        elif path.suffix == ".pth":  # in the original DINO naming
            spec = VitSpec(image_size=32, patch_size=8, in_chans=3, dim=96, depth=1, heads=6)
            torch.save(random_backbone(spec).network.state_dict(), path)
        elif path.suffix == ".ckpt":  # a training on simulation
            spec = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2)
            state = {f"teacher.{key}": x for key, x in DenseNetwork(spec, 3, seed=0).state_dict().items()}
            torch.save({"state_dict": state, "alan": {**spec.entry(), "prefix": "teacher.network."}}, path)
        elif path.suffix == ".json" and structure and "opinion" in name:
            phase = re.search("-(ED|ES)-", path.name)
            box = ParcelSegmenter.from_json(f"alan-sim-lv-{phase[1]}" if phase else "alan-sim-small-lv")
            own = {2: Opinion.of("inside")}
            ExpertOpinion(structure[1], box.selector_.provenance, own, phase[1] if phase else "").to_json(path)
        elif path.suffix == ".json" and structure:
            shutil.copy(self.tiny.white_box(structure[1]), path)
        else:
            return False
        return True

    def _make_config(self, path) -> bool:
        """The best point of a search."""
        if path.stem == "best":
            shutil.copy(config_file("supervised/unet_tiny_camus"), path)
        return path.exists()

    def _network(self, name, seed=0):
        structures = ["lv+myo"] if "binary" in name else ["rv", "myo", "lv"]
        structures = structures if re.search("acdc|ensemble", name) else ["lv", "myo", "la"]
        channels = (16, 32, 64, 128) if "simulated" in name else (4, 8)  # a shipped configuration starts from it
        spec = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=channels)
        network = untrained_segmenter(spec, structures, "sector", self.size, seed=seed)
        if fold := re.search(r"_fold(\d)", name):  # one of five folds, as in the configuration that reads it
            store = FrameStore(self.tiny.store("acdc", seed_of("data/acdc_mm.h5"), size=self.size))
            known = {"stores": [store.fingerprint], "train_split": "train", "val_split": "val"}
            network.provenance |= {**known, "fold": [int(fold[1]), 5]}
        return network

    def provide_folder(self, path) -> None:
        """Put an archive, pictures or cine loops where a command looks for them."""
        if path is None or Path(path).exists():
            return
        folder = Path(path)
        name = folder.name.lower()
        if "loops" in name or name == "inbox":
            folder.mkdir(parents=True)
            for loop in sorted(Path(self.tiny.archive("echonet")).glob("Videos/*"))[:2]:
                shutil.copy(loop, folder)
        elif folder.parent.name == "models":  # a command of another model was not run again
            shutil.copytree(next(folder.parent.iterdir()), folder)
        elif name == "release":
            self._pictures(folder, release=True)
        elif "coco" in name:
            self._pictures(folder)
            shutil.rmtree(folder / "masks")
            (folder / "instances.json").write_text(json.dumps(_instances(folder)), encoding="utf-8")
        elif re.search("my_|pictures|frames", name):
            self._pictures(folder)
        else:
            shutil.copytree(self.tiny.archive(layout_of(name), seed_of(name)), folder)
        self.made.add(folder)

    def _pictures(self, folder, release=False) -> None:
        """Eight annotated frames as pictures, the first four with masks; or a segments.ai release of them."""
        store = FrameStore(self.tiny.store("camus"))
        rows = store.labelled(views=["A4C"]).iloc[:8]
        maps = sum(value * store.masks(rows.label, name) for value, name in enumerate(("lv", "myo", "la"), 1))
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        samples = []
        for n, (frame, label) in enumerate(zip(store.frames(rows.frame), maps.astype(np.uint8), strict=True)):
            name = f"p{n // 2}_A4C_{n % 2}.png"
            Image.fromarray(frame).save(folder / "images" / name)
            if release:
                bitmap = np.stack([label, 0 * label, 0 * label, 255 * (label > 0).astype(np.uint8)], axis=-1)
                Image.fromarray(bitmap).save(folder / "images" / f"{Path(name).stem}_label_ground-truth.png")
                samples.append(_sample(name))
            elif n < 4:
                Image.fromarray(label).save(folder / "masks" / name)
        names = ["lv", "myo", "la"]
        if release:
            categories = [{"id": value, "name": name} for value, name in enumerate(names, 1)]
            dataset = {
                "task_type": "segmentation-bitmap",
                "task_attributes": {"categories": categories},
                "labelsets": [{"name": "ground-truth"}],
                "samples": samples,
            }
            (folder / "release.json").write_text(json.dumps({"name": "v1", "dataset": dataset}), encoding="utf-8")
        else:
            with (folder / "classes.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(
                    [("name", "id"), *((name, value) for value, name in enumerate(names, 1))]
                )

    # Work

    def small(self, command) -> list[str]:
        """Options that make the work of a command small."""
        verb = command.verb.replace(" ", "_")
        return [str(word) for word in getattr(self, f"_small_{verb}", lambda _: [])(command)]

    def _small_simulate(self, command):
        return ["--n_patients", 8, "--n_frames", 2, "--split", "[0.5, 0.25, 0.25]"]

    def _small_prepare(self, command):
        split = command.option("split")
        if not isinstance(split, dict) or "-" not in str(split):
            return ["--workers", 0]
        ranges = dict(
            zip(split, ("1-4", "5-6", "7-8"), strict=True)
        )  # in place of the patients of the real archive
        return ["--workers", 0, f"--split={json.dumps(ranges)}"]

    def _small_frames(self, command):
        return ["--workers", 0]

    def _small_analyze(self, command):
        args = ["--workers", 1, "--samples", 2, *([] if command.option("outputs") else ["--outputs", "[png]"])]
        untrained = "models/" in str(command.option("model"))  # it takes every loop for something else
        return [*args, *(["--view", "A4C"] if untrained and not command.option("view") else [])]

    def _small_assemble(self, command):
        return ["--bank_copies", 1, "--bank_frames", 24, "--bank_other", 12] if command.option("bank") else []

    def _small_parcels(self, command):
        return ["--frames", 2] if command.option("frames") == "all" else []

    def _small_calibrate(self, command):
        return ["--split", "null", "--samples", 2]  # no split of the small stores has ten loops

    def _small_cache(self, command):
        return ["--num_workers", 0, "--accelerator", "cpu"]

    def _small_name(self, command):
        few = ["--label_patients", 2] if command.option("label_patients") else []
        return [*few, "--level", 0.3]  # few pixels leave shares uncertain

    def _small_demo(self, command):
        return ["--fast", "true", "--patients", 12, "--studies", 8]

    def _small_ensemble(self, command):
        return ["--trials", 5]

    def _small_search(self, command):
        encoders = command.config["space"]["encoders"]
        light = next(encoder for encoder in ("mobilenet_v2", "resnet18") if encoder in encoders)
        args = [f"--space.encoders=[{light}]", "--space.decoders=[unet]", "--space.batch_sizes=[2]"]
        args += ["--data.label_patients=null", "--training.epochs=1", "--study.val_every=1"]
        return [*args, "--training.num_workers=0", "--study.n_trials=1", "--study.storage=null"]

    def _small_active_run(self, command):
        light = _light(command.config["training"]["network"])
        args = [*(f"--training.network.{option}" for option in light), "--training.accelerator=cpu"]
        args += [
            "--loop.seeds=[0]",
            "--loop.initial=2",
            "--loop.per_phase=1",
            "--loop.phases=2",
            "--loop.passes=2",
        ]
        return [*args, "--training.steps=1"]

    def _small_active_suggest(self, command):
        return ["--passes", 2, "--n", 2]

    def _small_fit(self, command):
        model = command.config["model"]
        kind, settings = model["class_path"].rpartition(".")[2], model["init_args"]
        data = command.config["data"]["init_args"]
        args = [*ONE_STEP]
        if kind in {"DINOModule", "JointModule"}:
            args += [f"--model.init_args.{key}={value}" for key, value in SHALLOW.items()]
        elif kind == "SimulationModule":
            args += ["--trainer.val_check_interval=1"]
            if "TimmSpec" in settings["network"].get("class_path", ""):
                options = {"depth": 1, "embed_dim": 24, "num_heads": 2}
                args += [f"--model.init_args.network.init_args.options={json.dumps(options)}"]
                args += ["--model.init_args.init=null", "--model.init_args.trained_blocks=1"]
            elif "class_path" in settings["network"]:
                args += ["--model.init_args.network.depth=1"]
            args += ["--data.init_args.unlabelled_batch_size=2"] if "unlabelled" in data else []
            args += ["--data.init_args.label_patients=2"] if "label_patients" in data else []
        elif kind == "SegmentationModule":
            args += ["--data.init_args.label_patients=null"]
            args += [f"--model.init_args.network.{option}" for option in _light(settings["network"])]
        elif kind in {"RaptorModule", "SmooSegModule"} and data["n_frames"]:
            args += ["--data.init_args.n_frames=3"]  # the tiny archive has four
        if kind == "JointModule":
            args += ["--data.init_args.unlabelled_batch_size=2"]
        return args

    def _small_evaluate(self, command):
        args = []
        if segmentation := command.config.get("segmentation"):
            args += ["--segmentation.kmeans_frames", 16]
            args += ["--segmentation.views=[A4C]"] if layout_of(segmentation["store"]) == "camus" else []
            args += ["--segmentation.label_patients", 2] if segmentation.get("label_patients") else []
        if efficiency := command.config.get("label_efficiency"):
            methods = copy.deepcopy(efficiency["methods"])
            for method in methods:
                if method["kind"] == "decoder":
                    method["decoder"] = {**method.get("decoder", {}), "steps": 1}
                if method["kind"] == "network":
                    method["network"] |= {"steps": 1, "batch_size": 2}
                if "backbone" in method:  # fewer and narrower tokens than those of a convolutional network
                    method |= {"backbone": self.tiny.backbone(), "feature_levels": None}
            options = {"methods": methods, "label_patients": [1, None], "seeds": [0], "workers": 1}
            args += [f"--label_efficiency.{name}={json.dumps(value)}" for name, value in options.items()]
        return args


def _light(network):
    """Options of a network of the same decoder that is quickly trained."""
    if network["encoder"] is None:
        return ["decoder_channels=[4,8,16,32,64]"]
    return [] if network["encoder"] == "mit_b0" else ["encoder=mobilenet_v2"]


def _instances(folder):
    """A COCO file of a square in each picture."""
    names = sorted(path.name for path in (folder / "images").iterdir())
    images = [{"id": n, "file_name": name, "height": 112, "width": 112} for n, name in enumerate(names)]
    square = {"category_id": 1, "segmentation": [[40, 40, 70, 40, 70, 70, 40, 70]], "iscrowd": 0}
    annotations = [{"id": n, "image_id": n, **square} for n in range(len(names))]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "lv"}]}


def _sample(name):
    annotations = [{"id": value, "category_id": value} for value in (1, 2, 3)]
    label = {"annotations": annotations, "segmentation_bitmap": {"url": "https://example.org/1.png"}}
    label = {"label_status": "LABELED", "attributes": {"format_version": "0.1", **label}}
    return {
        "name": name,
        "attributes": {"image": {"url": "https://example.org/a.png"}},
        "labels": {"ground-truth": label},
    }
