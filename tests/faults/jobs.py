"""Small commands of every verb that writes, for the campaign of faults. To add a verb, add a job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Libraries of the commands, imported here so that no fork has to.
import alembic.command  # noqa: F401
import av  # noqa: F401
import kornia.augmentation  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import nibabel  # noqa: F401
import optuna.storages  # noqa: F401
import pandas  # noqa: F401
import segmentation_models_pytorch  # noqa: F401
import SimpleITK  # noqa: F401

from alan.cli.main import main
from alan.data.preprocessing import Preprocessing
from alan.data.readers.registry import open_dataset
from alan.data.store.writer import prepare
from alan.supervised.segmenter import save_segmenter
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

#: Written anew by every call, with the time or the seconds of the work in them.
PAGES = (r"(.*/)?report\.html", r"figures/.*", r"run\.json")


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder.

    Attributes:
        args: Makes its words from the folder.
        ignore: Files whose content may differ from one uninterrupted run to the next.
        shared: Whether several processes may work in the folder at once, on numbered trials.
    """

    args: Callable[[Path], list[Any]]
    ignore: Sequence[str] = PAGES
    shared: bool = False


class Jobs:
    """Jobs by name; their inputs are made when they are first used.

    Args:
        tiny: The fixture of tiny archives, stores and models.
        folder: Folder for the inputs.
    """

    names = (
        *("simulate", "prepare", "prepare in processes", "frames", "cache", "cache of two ranks"),
        *(
            "fit dino",
            "fit joint",
            "fit raptor",
            "fit smooseg",
            "fit simulation",
            "fit distilled",
            "fit segmentation",
        ),
        *("parcels", "name", "name by phase", "segment", "evaluate segmentation", "evaluate networks"),
        *(
            "evaluate views",
            "evaluate labels",
            "search",
            "active run",
            "active merge",
            "active suggest",
            "ensemble",
        ),
        *("assemble", "export", "export of a model", "analyze", "report"),
    )
    #: Jobs with worker processes.
    pools = (
        "simulate in processes",
        "prepare in processes",
        "frames in processes",
        "evaluate labels in processes",
        "analyze in processes",
    )

    def __init__(self, tiny: Any, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder
        # a cache for each instance
        self.store = cache(self._store)
        self.loops = cache(self._loops)
        self.finished = cache(self._finished)

    def __getitem__(self, name: str) -> Job:
        found: Job = getattr(self, "_" + name.replace(" ", "_"))()
        return found

    def _store(self) -> str:
        """A store of small frames, so that a try takes no longer than it must."""
        out = self.folder / "camus.h5"
        archive = open_dataset("camus", self.tiny.archive("camus"))
        prepare(archive, out, Preprocessing(64), workers=0, progress=False)
        return str(out)

    def _loops(self) -> Path:
        """Two short loops."""
        folder = self.folder / "loops"
        folder.mkdir()
        for path in sorted(Path(self.tiny.archive("echonet"), "Videos").iterdir())[:2]:
            shutil.copy(path, folder)
        return folder

    def _finished(self, name: str) -> Path:
        """The folder of a job that is complete."""
        out = self.folder / f"finished {name}"
        if main([str(word) for word in self[name].args(out)]):
            raise RuntimeError(f"the job {name} has failed")
        return out

    def _simulate(self, workers: int = 1) -> Job:
        options = [
            f"--workers={workers}",
            "--layout=camus",
            "--n_patients=3",
            "--size=48",
            "--n_frames=2",
            "--progress=false",
        ]
        return Job(lambda out: ["simulate", *options, "--out", out])

    def _simulate_in_processes(self) -> Job:
        return self._simulate(2)

    def _prepare(self, workers: int = 0) -> Job:
        options = ["--kind=camus", "--root", self.tiny.archive("camus"), "--size=48", "--workers", workers]
        return Job(lambda out: ["prepare", *options, "--out", out / "store.h5"])

    def _prepare_in_processes(self) -> Job:
        return self._prepare(2)

    def _frames(self, workers: int = 0) -> Job:
        loops = Path(self.tiny.archive("echonet")) / "Videos"
        return Job(lambda out: ["frames", "--root", loops, "--every", 4, "--workers", workers, "--out", out])

    def _frames_in_processes(self) -> Job:
        return self._frames(2)

    def _cache(self, *ranks: str) -> Job:
        options = ["--store", self.store(), "--backbone", self.tiny.backbone(), "--features=[cls,tokens]", *ranks]
        options += ["--batch_size=16", "--accelerator=cpu"]
        return Job(lambda out: ["cache", *options, "--out", out / "cache.h5"])

    def _cache_of_two_ranks(self) -> Job:
        return self._cache("--devices=2", "--strategy=ddp_fork")

    def _fit(self, name: str, model: dict[str, Any], data: dict[str, Any], **trainer: Any) -> Job:
        settings = {"accelerator": "cpu", "max_epochs": -1, "max_steps": 4, "log_every_n_steps": 1, **trainer}
        config = self.folder / f"{name}.yaml"
        every = {"checkpoint_every": 1, "trainer": {**settings, "enable_progress_bar": False}}
        config.write_text(json.dumps({"model": model, "data": data, **every}), encoding="utf-8")
        return Job(lambda out: ["fit", "--config", config, "--out", out])

    def _fit_dino(self) -> Job:
        vit = {"image_size": 32, "patch_size": 8, "in_chans": 1, "dim": 16, "depth": 1, "heads": 2}
        options = {"network": vit, "crops": {"global_size": 32, "local_size": 16, "n_local": 2}, "outputs": 32}
        options |= {"hidden": 16, "bottleneck": 8}
        data = {"stores": [self.store()], "batch_size": 4}
        return self._fit("dino", _class("backbone.DINOModule", options), _class("data.FrameDataModule", data))

    def _fit_joint(self) -> Job:
        vit = {"image_size": 32, "patch_size": 8, "in_chans": 1, "dim": 16, "depth": 1, "heads": 2}
        options = {"network": vit, "crops": {"global_size": 32, "local_size": 16, "n_local": 1}, "outputs": 16}
        options |= {"hidden": 16, "bottleneck": 8, "objective": {"structures": ["lv", "la"]}}
        data = {"stores": [self.store()], "structures": ["lv", "la"], "batch_size": 2, "val_split": None}
        data |= {"unlabelled": [self.store()], "unlabelled_batch_size": 2}
        module, frames = _class("backbone.JointModule", options), _class("data.SimulatedDataModule", data)
        return self._fit("joint", module, frames)

    def _fit_raptor(self, module: str = "RaptorModule") -> Job:
        options = {"backbone": self.tiny.backbone(), "n_parcels": 8}
        data = {"stores": [self.store()], "n_frames": 3, "period": 1, "batch_size": 3}
        return self._fit(module, _class(f"parcels.{module}", options), _class("data.SequenceDataModule", data))

    def _fit_smooseg(self) -> Job:
        return self._fit_raptor("SmooSegModule")

    def _fit_simulation(self, name: str = "simulation", **unlabelled: Any) -> Job:
        options = {"network": {"widths": [8, 16, 16]}, "objective": {"structures": ["lv", "la"]}}
        data = {"stores": [self.store()], "structures": ["lv", "la"], "batch_size": 2}
        if unlabelled:
            options |= unlabelled
            data |= {"unlabelled": [self.store()], "unlabelled_batch_size": 2}
        module, frames = _class("backbone.SimulationModule", options), _class("data.SimulatedDataModule", data)
        return self._fit(name, module, frames, val_check_interval=2)

    def _fit_distilled(self) -> Job:
        teacher = self.finished("fit simulation") / "checkpoints" / "last.ckpt"
        return self._fit_simulation("distilled", teachers=[str(teacher)], unlabelled_weight=1.0)

    def _fit_segmentation(self) -> Job:
        network = {"decoder": "unet_acdc", "encoder": None, "decoder_channels": [4, 8]}
        options = {"structures": ["lv"], "network": network, "losses": {"dice": 1.0}, "augmentation": "none"}
        data = {"stores": [self.store()], "structures": ["lv"], "batch_size": 4}
        module = _class("supervised.SegmentationModule", options)
        frames = _class("data.LabelledFrameDataModule", data)
        return self._fit("segmentation", module, frames, val_check_interval=2, num_sanity_val_steps=0)

    def _parcels(self) -> Job:
        options = ["--store", self.store(), "--backbone", self.tiny.backbone(), "--n_parcels=4"]
        return Job(lambda out: ["parcels", *options, "--frames=1", "--max_samples=2000", "--out", out])

    def _name(self, parcels: str = "", *more: str) -> Job:
        options = ["--parcels", parcels or self.tiny.parcels(), "--store", self.store(), "--structures=[lv,la]"]
        return Job(lambda out: ["name", *options, *more, "--share_above=0.02", "--views=[A4C]", "--out", out])

    def _name_by_phase(self) -> Job:
        labels = ["--labels", self.tiny.store("camus", 1), "--label_patients=1"]
        return self._name("", "--phases=[ED,ES]", *labels)

    def _name_of_shipped_parcels(self) -> Job:
        return self._name("alan-sim-parcels")

    def _segment(self) -> Job:
        boxes = f"[{self.tiny.white_box('lv')}]"
        options = ["--input", self.store(), "--parcels", self.tiny.parcels(), "--white_boxes", boxes]
        chosen = ["--frames=annotated", "--views=[A4C]", "--split=train", "--batch_size=2", "--sheet=4"]
        return Job(lambda out: ["segment", *options, *chosen, "--out", out], (*PAGES, r"contact_sheet\.png"))

    def _evaluate(self, part: str, protocol: dict[str, Any], *ignore: str) -> Job:
        return Job(lambda out: ["evaluate", f"--{part}={json.dumps(protocol)}", "--out", out], (*PAGES, *ignore))

    def _evaluate_segmentation(self) -> Job:
        protocol = {"store": self.store(), "parcels": {"RAPTOR": self.tiny.parcels()}, "kmeans": []}
        options = {"rules": ["greedy"], "structures": ["lv"], "views": ["A4C"], "random_vit": False}
        return self._evaluate("segmentation", {**protocol, **options})

    def _evaluate_networks(self) -> Job:
        networks = {"one": str(self._network("a")), "weighted": str(self.finished("ensemble") / "ensemble.json")}
        protocol = {"store": self.store(), "networks": networks, "structures": ["lv"], "views": ["A4C"]}
        # the table for LaTeX holds the measured time of a network
        return self._evaluate("segmentation", {**protocol, "kmeans": [], "random_vit": False}, r"summary\.tex")

    def _evaluate_views(self) -> Job:
        protocol = {"store": self.tiny.store("tmed"), "backbone": self.tiny.backbone(), "k": [2]}
        return self._evaluate("views", {**protocol, "random_vit": False})

    def _evaluate_labels(self, workers: int = 1) -> Job:
        rule = {"kind": "rule", "name": "greedy", "parcels": self.tiny.parcels(), "rule": "greedy"}
        protocol = {"store": self.store(), "methods": [{"kind": "atlas", "name": "atlas"}, rule]}
        options = {
            "structures": ["lv"],
            "label_patients": [1, 2],
            "seeds": [0],
            "views": ["A4C"],
            "workers": workers,
        }
        return self._evaluate("label_efficiency", {**protocol, **options})

    def _evaluate_labels_in_processes(self) -> Job:
        return self._evaluate_labels(2)

    def _search(self) -> Job:
        parts = {
            "space": {
                "encoders": ["resnet18"],
                "depths": [3],
                "decoders": ["unet"],
                "lrs": [0.1, 0.001, 0.01, 0.0001],
                "batch_sizes": [4],
            },
            "data": {"stores": [self.store()], "structures": ["lv"], "views": ["A4C"]},
            "training": {"steps": 1, "accelerator": "cpu"},
            "study": {"n_trials": 3, "heartbeat": 1},
        }
        options = [f"--{name}={json.dumps(value)}" for name, value in parts.items()]
        others = (
            r"study\.db.*",
            r"summary\.tex",
            r"\..*\.part",
        )  # another process may be writing a part
        return Job(lambda out: ["search", *options, "--out", out], (*PAGES, *others), shared=True)

    def _active_run(self, *functions: str) -> Job:
        network = {"decoder": "unet_acdc", "encoder": None, "decoder_channels": [4, 8], "dropout": 0.3}
        loop = {"initial": 2, "per_phase": 1, "phases": 2, "passes": 2}
        parts = {
            "data": {"store": self.store(), "views": ["A4C"]},
            "loop": {"functions": functions or ["random", "mfe"], **loop},
            "training": {"network": network, "steps": 1, "accelerator": "cpu"},
        }
        options = [f"--{name}={json.dumps(value)}" for name, value in parts.items()]
        return Job(lambda out: ["active", "run", *options, "--out", out])

    def _active_run_of_random(self) -> Job:
        return self._active_run("random")

    def _active_run_of_mfe(self) -> Job:
        return self._active_run("mfe")

    def _active_merge(self) -> Job:
        runs = ",".join(str(self.finished(f"active run of {function}")) for function in ("random", "mfe"))
        return Job(lambda out: ["active", "merge", f"--runs=[{runs}]", "--out", out])

    def _network(self, name: str, seed: int = 0, dropout: float = 0.0) -> Path:
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            spec = NetworkSpec("unet_acdc", None, decoder_channels=(4, 8), dropout=dropout)
            save_segmenter(untrained_segmenter(spec, ["lv", "la"], size=64, seed=seed), path)
        return path

    def _active_suggest(self) -> Job:
        options = ["--network", self._network("dropout", dropout=0.3), "--input", self.store()]
        chosen = ["--n=3", "--passes=2", "--views=[A4C]", "--split=train", "--include_labelled=true"]
        ignore = (*PAGES, r"contact_sheet\.png")
        return Job(lambda out: ["active", "suggest", *options, *chosen, "--out", out], ignore)

    def _ensemble(self) -> Job:
        members = {name: str(self._network(name, seed)) for seed, name in enumerate("ab")}
        options = ["--store", self.store(), f"--members={json.dumps(members)}", "--trials=5"]
        return Job(lambda out: ["ensemble", *options, "--views=[A4C]", "--out", out])

    def _assemble(self) -> Job:
        # a bank of views needs a convolutional backbone
        boxes = self.finished("name of shipped parcels")
        options = ["--parcels=alan-sim-parcels", f"--white_boxes=[{boxes}]", "--views=[A4C]"]
        bank = [f"--bank=[{self.store()}]", "--bank_frames=2", "--bank_other=1", "--size=32"]
        return Job(lambda out: ["assemble", *options, *bank, "--out", out / "model"])

    def _export(self) -> Job:
        options = ["--model", self.tiny.parcels(), "--format=torch"]
        return Job(lambda out: ["export", *options, "--out", out])

    def _export_of_a_model(self) -> Job:
        options = ["--model", self.finished("assemble") / "model", "--format=torch"]
        return Job(lambda out: ["export", *options, "--out", out])

    def _analyze(self, workers: int = 1) -> Job:
        options = [
            "--model",
            self.finished("assemble") / "model",
            "--view=A4C",
            "--samples=2",
            "--workers",
            workers,
        ]
        outputs = ["--outputs=[overlay,png,nifti,dicom]", "--spacing=[1,1]"]
        return Job(lambda out: ["analyze", self.loops(), *options, *outputs, "--out", out])

    def _analyze_in_processes(self) -> Job:
        return self._analyze(2)

    def _report(self) -> Job:
        """Its folder holds a finished run whose report and figures are missing."""
        finished = self.finished("evaluate views")

        def args(out: Path) -> list[Any]:
            if not out.exists():
                shutil.copytree(finished, out, ignore=shutil.ignore_patterns("report.html", "figures"))
            return ["report", "--run", out]

        return Job(args, ())


def _class(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"alan.{name}", "init_args": options}
