"""Weighted kNN against scikit-learn's brute-force cosine search; memory of a large search.

Run: python tests/benchmarks/bench_neighbors.py
"""

import resource
import time

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from alan.downstream.neighbors import WeightedKNNClassifier


def queries_per_second(model, queries, repeats=3):
    """Best of a few runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        model.predict(queries)
        best = min(best, time.perf_counter() - start)
    return len(queries) / best


def main():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((17_000, 384), dtype=np.float32)
    queries = rng.standard_normal((2_000, 384), dtype=np.float32)
    labels = rng.integers(0, 4, len(rows))
    ours = queries_per_second(WeightedKNNClassifier(10).fit(rows, labels), queries)
    reference = KNeighborsClassifier(10, metric="cosine", algorithm="brute").fit(rows, labels)
    theirs = queries_per_second(reference, queries)
    print("17,000 x 384 float32, 2,000 queries, k = 10, queries/s")
    print(f"  WeightedKNNClassifier                {ours:8.0f}")
    print(f"  KNeighborsClassifier (brute, cosine) {theirs:8.0f}   ratio {ours / theirs:.1f}")

    rows = rng.standard_normal((200_000, 384), dtype=np.float32)
    model = WeightedKNNClassifier(10).fit(rows, rng.integers(0, 4, len(rows)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    speed = queries_per_second(model, queries, repeats=1)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print("200,000 x 384 float32, 2,000 queries, k = 10")
    print(f"  WeightedKNNClassifier {speed:8.0f} queries/s, search grew peak memory by {grown / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
