"""Speed and memory of ``alan analyze``, against decoding and the network alone on one core.

python tests/benchmarks/bench_analyze.py --loops 4 --frames 192

With ``--loops 1`` a single process does everything, and its CPU seconds and memory are printed too.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from alan.analysis import AnalysisModel
from alan.data.io.video import read_video
from alan.data.simulator import simulate_sequence
from alan.data.simulator.layouts import write_avi
from alan.workers import usable_cpus

SIZES = {"112 x 112": (112, 112), "600 x 800": (600, 800)}
BEAT = 48


def write_loops(folder, size, n_loops, n_frames):
    for seed in range(n_loops):
        clip = simulate_sequence("A4C", seed, n_frames=BEAT, beats=1.0, size=size, seed=seed)
        frames = np.concatenate([clip.frames] * -(-n_frames // BEAT))[:n_frames]
        write_avi(folder / f"loop{seed}.avi", frames, clip.fps)


def reference(folder):
    """Wall and CPU seconds for decoding each loop whole and running the network on it, without anything else."""
    model = AnalysisModel.load("alan-sim")
    start, busy = time.perf_counter(), time.process_time()
    for path in sorted(folder.iterdir()):
        model.maps(model.resize(read_video(path).frames))
    return time.perf_counter() - start, time.process_time() - busy


#: Runs a command and prints the peak memory of its largest process in KiB and the CPU seconds of all; a process of
#: its own, because a child starts with the peak of its parent.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


def analyze(folder, out, workers):
    """Wall and CPU seconds of the command, and peak memory of its largest process in MiB."""
    command = [sys.executable, "-m", "alan", "--quiet", "analyze", str(folder), "--out", str(out)]
    command += ["--view=A4C", f"--workers={workers}"]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True)
    memory, busy = map(float, done.stdout.split())
    return time.perf_counter() - start, busy, memory / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("--frames", type=int, default=192)
    options = parser.parse_args()
    torch.set_num_threads(1)
    workers = min(options.loops, usable_cpus())
    total = options.loops * options.frames
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            loops = Path(folder, "loops")
            loops.mkdir()
            write_loops(loops, size, options.loops, options.frames)
            alone, alone_busy = reference(loops)
            seconds, busy, memory = analyze(loops, Path(folder, "out"), workers)
            load = os.getloadavg()[0]
        whole = ""
        if workers == 1:  # those of the processes of a pool are not counted by the system
            whole = f"{busy:.1f} CPU s, {busy / alone_busy:.2f} times those of the reference; {memory:.0f} MiB; "
        print(
            f"{name}: {total} frames, {total / seconds:.1f} frames/s with {workers} processes, start included, "
            f"{seconds / alone:.2f} times decoding and network on one core ({total / alone:.1f} frames/s); "
            f"{whole}load {load:.1f}"
        )


if __name__ == "__main__":
    main()
