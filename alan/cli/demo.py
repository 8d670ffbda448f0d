"""The verb ``alan demo``: all steps of the method on simulated archives."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from alan.bounds import PositiveInt, bounded
from alan.shipped import config_file

_log = logging.getLogger(__name__)

#: Number of patients of an archive, as the simulator takes it.
_Patients = Annotated[int, Interval(ge=3, le=9999)]


@bounded
def demo(
    out: str = "runs/demo",
    *,
    patients: _Patients = 240,
    studies: _Patients = 100,
    seed: int = 0,
    fast: bool = False,
    workers: PositiveInt | None = None,
) -> None:
    """Measure simulated loops with the shipped model, then train one without labels, and evaluate it.

    The first stage takes a minute: loops with the screen of a machine are simulated and measured, as
    ``alan analyze`` does, and ``loops/report.html`` has the ejection fraction of each patient beside the true one.
    The other stages run the whole method on archives in official layouts: training without labels, white boxes on
    a few labels, evaluation.

    The same command again reuses finished stages and continues interrupted ones.

    Args:
        out: Folder of everything that the demonstration writes.
        patients: Number of patients in the CAMUS-like archive (views A4C and A2C, with masks).
        studies: Number of patients in the TMED-like archive (four views).
        seed: Seed of the two archives, 0 or more.
        fast: Take a few training steps only, to see that everything works; the figures are then poor.
        workers: Number of processes that simulate, decode and measure; null takes one per core, at most four.
    """
    from alan.cache.run import write_cache
    from alan.cli.analyze import analyze
    from alan.cli.evaluate import evaluate
    from alan.cli.prepare import prepare
    from alan.data.simulator.archive import simulate_archive
    from alan.data.store.reader import FrameStore
    from alan.evaluation.protocols import SegmentationProtocol, ViewProtocol
    from alan.report.export import SUMMARY
    from alan.workers import usable_cpus

    folder = Path(out)
    workers = workers or min(4, usable_cpus())
    start = time.perf_counter()
    with _stage(1, "simulate loops of a few patients and measure them with the shipped model (alan analyze)"):
        n, frames_per_loop = (3, 12) if fast else (4, None)
        clinic = simulate_archive(
            folder / "clinic", "clinic", n, n_frames=frames_per_loop, seed=seed, workers=workers
        )
        loops = [str(clinic / "loops")]
        rule = r"(?P<patient>patient\d+)"
        analyze(loops, str(folder / "loops"), patient=rule, reference=str(clinic / "ef.csv"), workers=workers)
    with _stage(2, "simulate two archives in official layouts (CAMUS, TMED-2)"):
        simulate_archive(folder / "archive-camus", "camus", patients, seed=seed, workers=workers)
        simulate_archive(folder / "archive-tmed", "tmed", studies, seed=seed + 1, workers=workers)
    with _stage(3, "decode them once into frame stores"):
        stores = {name: str(folder / f"{name}.h5") for name in ("camus", "tmed")}
        for name, store in stores.items():
            prepare(name, str(folder / f"archive-{name}"), store, workers=workers if workers > 1 else 0)
    with _stage(4, "train the backbone without labels (DINO with the patch-level term), then lock it"):
        frames = {"data.init_args.stores": [*stores.values()]}
        backbone = _fit("dino/tiny_demo", folder / "backbone", frames, fast)
    with _stage(5, "cache its patch tokens of the training frames"):
        tokens = str(folder / "tokens.h5")
        write_cache(
            stores["camus"], str(backbone), tokens, features=("tokens",), split="train", frames=8, stride=4
        )
    with _stage(6, "train the parcels on them (RAPTOR)"):
        data = {"data.init_args.cache": tokens, "data.init_args.store": stores["camus"]}
        parcels = _fit(
            "raptor/raptor_demo",
            folder / "parcels",
            {**data, "model.init_args.backbone": str(backbone)},
            fast,
        )
    with _stage(7, "fit the white boxes on a few labelled patients, measure on others, write the report"):
        evaluate(
            str(folder / "report"),
            segmentation=SegmentationProtocol(
                store=stores["camus"],
                parcels={"RAPTOR": str(parcels)},
                structures=("lv", "la"),
                views=("A4C",),
                label_patients=min(20, len({s.patient for s in FrameStore(stores["camus"]).select(split="val")})),
            ),
            views=ViewProtocol(store=stores["tmed"], backbone=str(backbone)),
            title="ALAN on a simulated archive",
            curves={
                "DINO": str(backbone.parent / "metrics.jsonl"),
                "RAPTOR": str(parcels.parent / "metrics.jsonl"),
            },
        )
    seconds = time.perf_counter() - start
    gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _log.info("these patients are simulated, they do not exist:\n%s", _figures(folder / "report" / SUMMARY))
    n = sum(len(FrameStore(store)) for store in stores.values())
    _log.info("%d frames, %.1f minutes, %.1f GiB of memory at most (main process)", n, seconds / 60, gigabytes)
    _log.info("open %s", folder / "report" / "report.html")


def _figures(path: Path) -> str:
    """Return the Dice scores and accuracies of an evaluation as a table of text."""
    import pandas as pd

    table = pd.read_csv(path, dtype={"k": "Int64"})
    shown = table[table["metric"].isin(("dice", "accuracy"))]
    columns = ["method", "rule", "structure", "phase", "view", "k", "value", "low", "high"]
    return shown[columns].to_string(index=False, na_rep="", float_format="{:.3f}".format)


@contextmanager
def _stage(number: int, what: str) -> Iterator[None]:
    start = time.perf_counter()
    _log.info("\n[%d/7] %s", number, what)
    yield
    _log.info("[%d/7] done in %.0f s", number, time.perf_counter() - start)


def _fit(config: str, out: Path, options: Mapping[str, object], fast: bool) -> Path:
    """Train with an installed configuration and return the exported model; a finished training is reused."""
    from alan.cli.fit import run_lightning

    args = ["fit", "--config", str(config_file(config)), "--out", str(out)]
    args += [f"--{name}={value}" for name, value in options.items()]
    if fast:
        args += ["--trainer.max_steps=2", "--trainer.log_every_n_steps=1"]
    run = run_lightning(args)
    return out / str(run.model.export_name)
