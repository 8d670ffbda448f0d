"""Small commands of every verb that writes, for the campaign of faults. To add a verb, add a job."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alan.supervised.segmenter import save_segmenter, untrained_segmenter
from alan.supervised.settings import NetworkSpec

#: Written anew by every call, with the time or the seconds of the work in them.
PAGES = (r"report\.html", r"figures/.*", r"run\.json")


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder.

    Attributes:
        args: Makes its words from the folder.
        ignore: Files whose content may differ from one uninterrupted run to the next.
        shared: Whether several processes may work in the folder at once.
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
        *("simulate", "prepare", "prepare in processes", "frames", "cache"),
        *("fit dino", "fit raptor", "fit simulation", "fit segmentation"),
        *("parcels", "name", "segment", "evaluate segmentation", "evaluate views", "evaluate labels"),
        *("search", "active run", "active suggest", "ensemble"),
    )

    def __init__(self, tiny: Any, folder: Path) -> None:
        self.tiny, self.folder = tiny, folder

    def __getitem__(self, name: str) -> Job:
        found: Job = getattr(self, "_" + name.replace(" ", "_"))()
        return found

    def _simulate(self) -> Job:
        options = ["--layout=camus", "--n_patients=4", "--size=48", "--n_frames=2", "--progress=false"]
        return Job(lambda out: ["simulate", *options, "--root", out])

    def _prepare(self, workers: int = 0) -> Job:
        options = ["--kind=camus", "--root", self.tiny.archive("camus"), "--size=48", "--workers", workers]
        return Job(lambda out: ["prepare", *options, "--out", out / "store.h5"])

    def _prepare_in_processes(self) -> Job:
        return self._prepare(2)

    def _frames(self) -> Job:
        loops = Path(self.tiny.archive("echonet")) / "Videos"
        return Job(lambda out: ["frames", "--root", loops, "--every", 4, "--workers", 0, "--out", out])

    def _cache(self) -> Job:
        options = ["--store", self.tiny.store("camus"), "--backbone", self.tiny.backbone(), "--what=[cls,tokens]"]
        return Job(
            lambda out: ["cache", *options, "--batch_size=16", "--accelerator=cpu", "--out", out / "cache.h5"]
        )

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
        data = {"stores": [self.tiny.store("camus")], "batch_size": 4}
        return self._fit("dino", _class("backbone.DINOModule", options), _class("data.FrameDataModule", data))

    def _fit_raptor(self) -> Job:
        options = {"backbone": self.tiny.backbone(), "n_parcels": 8}
        data = {"stores": [self.tiny.store("camus")], "n_frames": 3, "period": 1, "batch_size": 3}
        module = _class("parcels.RaptorModule", options)
        return self._fit("raptor", module, _class("data.SequenceDataModule", data))

    def _fit_simulation(self) -> Job:
        options = {"network": {"widths": [8, 16, 16]}, "objective": {"structures": ["lv", "la"]}}
        data = {"stores": [self.tiny.store("camus")], "structures": ["lv", "la"], "batch_size": 2}
        module, frames = _class("backbone.SimulationModule", options), _class("data.SimulatedDataModule", data)
        return self._fit("simulation", module, frames, val_check_interval=2)

    def _fit_segmentation(self) -> Job:
        network = {"decoder": "unet_acdc", "encoder": None, "decoder_channels": [4, 8]}
        options = {"structures": ["lv"], "network": network, "losses": {"dice": 1.0}, "augmentation": "none"}
        data = {"stores": [self.tiny.store("camus")], "structures": ["lv"], "batch_size": 4}
        module = _class("supervised.SegmentationModule", options)
        frames = _class("data.LabelledFrameDataModule", data)
        return self._fit("segmentation", module, frames, val_check_interval=2, num_sanity_val_steps=0)

    def _parcels(self) -> Job:
        options = ["--store", self.tiny.store("camus"), "--backbone", self.tiny.backbone(), "--n_parcels=4"]
        return Job(lambda out: ["parcels", *options, "--frames=1", "--max_samples=2000", "--out", out])

    def _name(self) -> Job:
        options = ["--parcels", self.tiny.parcels(), "--store", self.tiny.store("camus"), "--structures=[lv,la]"]
        return Job(lambda out: ["name", *options, "--share_above=0.02", "--views=[A4C]", "--out", out])

    def _segment(self) -> Job:
        boxes = f"[{self.tiny.white_box('lv')}]"
        options = ["--input", self.tiny.store("camus"), "--parcels", self.tiny.parcels(), "--whitebox", boxes]
        chosen = ["--frames=annotated", "--views=[A4C]", "--split=train", "--batch_size=2", "--sheet=4"]
        return Job(lambda out: ["segment", *options, *chosen, "--out", out], (*PAGES, r"contact_sheet\.png"))

    def _evaluate(self, part: str, protocol: dict[str, Any]) -> Job:
        return Job(lambda out: ["evaluate", f"--{part}={json.dumps(protocol)}", "--out", out])

    def _evaluate_segmentation(self) -> Job:
        protocol = {"store": self.tiny.store("camus"), "parcels": {"RAPTOR": self.tiny.parcels()}, "kmeans": []}
        options = {"rules": ["greedy"], "structures": ["lv"], "views": ["A4C"], "random_vit": False}
        return self._evaluate("segmentation", {**protocol, **options})

    def _evaluate_views(self) -> Job:
        protocol = {"store": self.tiny.store("tmed"), "backbone": self.tiny.backbone(), "k": [2]}
        return self._evaluate("views", {**protocol, "random_vit": False})

    def _evaluate_labels(self) -> Job:
        rule = {"kind": "rule", "name": "greedy", "parcels": self.tiny.parcels(), "rule": "greedy"}
        protocol = {"store": self.tiny.store("camus"), "methods": [{"kind": "atlas", "name": "atlas"}, rule]}
        options = {"structures": ["lv"], "label_patients": [1, 2], "seeds": [0], "views": ["A4C"]}
        return self._evaluate("label_efficiency", {**protocol, **options})

    def _search(self) -> Job:
        parts = {
            "space": {
                "encoders": ["mobilenet_v2"],
                "decoders": ["unet"],
                "lrs": [0.001, 0.01],
                "batch_sizes": [4],
            },
            "data": {"stores": [self.tiny.store("camus")], "structures": ["lv"], "views": ["A4C"]},
            "training": {"steps": 1, "accelerator": "cpu"},
            "study": {"n_trials": 2, "heartbeat": 1},
        }
        options = [f"--{name}={json.dumps(value)}" for name, value in parts.items()]
        return Job(
            lambda out: ["search", *options, "--out", out], (*PAGES, r"study\.db.*", r"summary\.tex"), shared=True
        )

    def _active_run(self) -> Job:
        network = {"decoder": "unet_acdc", "encoder": None, "decoder_channels": [4, 8], "dropout": 0.3}
        parts = {
            "data": {"store": self.tiny.store("camus"), "views": ["A4C"]},
            "loop": {"functions": ["random", "mfe"], "initial": 2, "per_phase": 1, "phases": 2, "passes": 2},
            "training": {"network": network, "steps": 1, "accelerator": "cpu"},
        }
        options = [f"--{name}={json.dumps(value)}" for name, value in parts.items()]
        return Job(lambda out: ["active", "run", *options, "--out", out])

    def _network(self, name: str, seed: int = 0, dropout: float = 0.0) -> Path:
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            spec = NetworkSpec("unet_acdc", None, decoder_channels=(4, 8), dropout=dropout)
            save_segmenter(untrained_segmenter(spec, ["lv", "la"], size=112, seed=seed), path)
        return path

    def _active_suggest(self) -> Job:
        options = ["--model", self._network("dropout", dropout=0.3), "--images", self.tiny.store("camus")]
        chosen = ["--n=3", "--passes=2", "--views=[A4C]", "--split=train", "--include_labelled=true"]
        ignore = (*PAGES, r"contact_sheet\.png")
        return Job(lambda out: ["active", "suggest", *options, *chosen, "--out", out], ignore)

    def _ensemble(self) -> Job:
        members = {name: str(self._network(name, seed)) for seed, name in enumerate("ab")}
        options = ["--store", self.tiny.store("camus"), f"--members={json.dumps(members)}", "--trials=5"]
        return Job(lambda out: ["ensemble", *options, "--views=[A4C]", "--out", out])


def _class(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"alan.{name}", "init_args": options}
