"""Search for copies of one loop among the loops of many patients, against a comparison of all pairs.

Run: python tests/benchmarks/bench_same_loop.py
"""

import time

import numpy as np

from alan.analysis.same_loop import Outlined, near_pairs

FRAMES = 60
STRUCTURES = ("lv", "myo", "la")


def made(n, seed=0):
    """Loops of n patients whose areas spread as those of CAMUS (about a quarter), 1% of them twice."""
    rng = np.random.default_rng(seed)
    beat = 1 - 0.3 * np.sin(np.pi * np.arange(FRAMES) / FRAMES) ** 2
    mean = np.array([[0.12], [0.1], [0.08]]) * np.exp(0.25 * rng.standard_normal((n, 3, 1)))
    areas = (mean * beat * (1 + 0.02 * rng.standard_normal((n, 3, FRAMES)))).astype(np.float32)
    areas[1 : n // 50 : 2] = areas[: n // 50 - 1 : 2]
    kind = ("A4C", FRAMES, STRUCTURES)
    return [Outlined(f"loop{k}", f"p{k}", kind, one) for k, one in enumerate(areas)]


def all_pairs(group):
    """Compare each loop with all that follow."""
    areas, found = np.stack([loop.areas for loop in group]), []
    for n, one in enumerate(group[:-1]):
        mean = np.maximum((areas[n] + areas[n + 1 :]).mean(-1) / 2, 1e-6)
        near = (np.abs(areas[n] - areas[n + 1 :]).mean(-1) <= 0.05 * mean).all(-1)
        found += [(one, group[n + 1 + k]) for k in np.flatnonzero(near)]
    return found


def seconds(find, group):
    start = time.process_time()
    found = [(one.loop, other.loop) for one, other in find(group)]
    return time.process_time() - start, found


def main():
    print(f"{FRAMES} frames, {len(STRUCTURES)} structures; CPU seconds")
    for n in (1_000, 3_000, 10_000):
        group = made(n)
        ours, pairs = seconds(near_pairs, group)
        if n > 3_000:
            print(f"  {n:6} loops  near_pairs {ours:5.2f}  {len(pairs)} pairs")
            continue
        theirs, expected = seconds(all_pairs, group)
        assert pairs == expected
        print(
            f"  {n:6} loops  near_pairs {ours:5.2f}   all pairs {theirs:6.2f}   ratio {theirs / ours:.0f}"
            f"   {len(pairs)} pairs"
        )


if __name__ == "__main__":
    main()
