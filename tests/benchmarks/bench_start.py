"""Time from the call of a verb to its help, its refusal or its result, against the import of PyTorch.

    python tests/benchmarks/bench_start.py

Each row is the best of three calls in new processes, with the files in the cache of the system: the seconds on
the clock, the seconds of the processor, which other programs hardly change, and their ratio to those
of ``python -c "import torch"``.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ALAN = (sys.executable, "-m", "alan")
REPEATS = 3
VERBS = ("simulate", "prepare", "segment", "evaluate", "search", "fit")


def seconds(*command, code=0):
    """Best times of a command: on the clock, and of the processor."""
    times = []
    for _ in range(REPEATS):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        times.append((time.perf_counter() - start, used))
        assert done.returncode == code, done.stderr
    return np.min(times, axis=0)


def search_start():
    """Time until a study over the paper's points has given its first trial, without the imports."""
    from alan.search.settings import StudySettings
    from alan.search.space import SearchSpace
    from alan.search.storage import open_storage
    from alan.search.study import SearchStudy
    from alan.shipped import shipped_configs

    config = yaml.safe_load(shipped_configs()["search/ednas"].read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        space = SearchSpace(
            **{name: tuple(v) if isinstance(v, list) else v for name, v in config["space"].items()}
        )
        space = space.resolve_names()
        storage = open_storage(Path(folder) / "study.db", None, 10, 60)
        study = SearchStudy.open(storage, space, StudySettings(n_trials=1), identity={})
        trial = study.study.ask()
        for axis, values in study.study.sampler.axes.items():
            trial.suggest_categorical(axis, list(values))
        storage.engine.dispose()
        return space.size, time.perf_counter() - start, time.process_time() - used


def main():
    """Print one line per command."""
    _, reference = seconds(sys.executable, "-c", "import torch")
    print(f"{'command':<44} {'seconds':>8} {'CPU s':>8} {'x torch':>8}")

    def row(text, *command, code=0):
        clock, used = seconds(*command, code=code)
        print(f"{text:<44} {clock:8.2f} {used:8.2f} {used / reference:8.2f}", flush=True)

    row('python -c "import torch"', sys.executable, "-c", "import torch")
    row("alan --help", *ALAN, "--help")
    for verb in VERBS:
        row(f"alan {verb} --help", *ALAN, verb, "--help")
    row("alan segment, a wrong path", *ALAN, "segment", "--input", "nowhere", "--out", "out", code=2)
    row("alan fit, a wrong path", *ALAN, "fit", "--config", "dino/tiny_demo", "--out", "out", code=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for n in range(10):
            pixels = np.random.default_rng(n).integers(0, 255, (112, 112), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
        output = ("--out", folder / "out", "--overwrite", "true")
        row("alan segment, ten frames", *ALAN, "segment", "--input", folder / "images", *output)
    size, clock, used = search_start()
    print(f"{f'alan search, first of {size:,} points':<44} {clock:8.2f} {used:8.2f} {used / reference:8.2f}")


if __name__ == "__main__":
    main()
