"""Time from the call of a verb to its help or its refusal, against an empty Python process.

    python tests/benchmarks/bench_start.py

The reference is ``python -c pass``; ``alan --help`` is the lower bound of every verb. Each time is the best of
three, in a new process, with the files in the cache of the system.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ALAN = (sys.executable, "-m", "alan")
REPEATS = 3


def seconds(*command, code=0):
    """Best time of a command."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - start)
        assert done.returncode == code, done.stderr
    return min(times)


def main():
    """Print one line per command."""
    reference = seconds(sys.executable, "-c", "pass")
    print(f"{'command':<44} {'seconds':>8} {'x python':>9}")
    print(f"{'python -c pass':<44} {reference:8.2f} {1.0:9.1f}")

    def row(text, *args, code=0):
        best = seconds(*ALAN, *args, code=code)
        print(f"{text:<44} {best:8.2f} {best / reference:9.1f}", flush=True)

    row("alan --help", "--help")
    for verb in ("simulate", "prepare", "segment", "evaluate", "search", "fit"):
        row(f"alan {verb} --help", verb, "--help")
    row("alan segment, a wrong path", "segment", "--input", "nowhere", "--out", "out", code=2)
    row("alan fit, a wrong path", "fit", "--config", "dino/tiny_demo", "--out", "out", code=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for n in range(10):
            pixels = np.random.default_rng(n).integers(0, 255, (112, 112), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
        output = ("--out", folder / "out", "--overwrite", "true")
        row("alan segment, ten frames", "segment", "--input", folder / "images", *output)


if __name__ == "__main__":
    main()
