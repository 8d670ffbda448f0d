"""Weighted kNN against scikit-learn's brute-force cosine search; memory of a large search.

Run: python tests/benchmarks/bench_neighbors.py
"""

import resource
import time

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from alan.downstream.neighbors import WeightedKNNClassifier


def queries_per_second(models, queries, repeats=3):
    """Best of a few runs, the models taken in turn so that a busy machine is busy for all."""
    best = [float("inf")] * len(models)
    for _ in range(repeats):
        for i, model in enumerate(models):
            start = time.perf_counter()
            model.predict(queries)
            best[i] = min(best[i], time.perf_counter() - start)
    return [len(queries) / seconds for seconds in best]


def main():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((17_000, 384), dtype=np.float32)
    queries = rng.standard_normal((2_000, 384), dtype=np.float32)
    labels = rng.integers(0, 4, len(rows))
    models = [WeightedKNNClassifier(10), KNeighborsClassifier(10, metric="cosine", algorithm="brute")]
    for model in models:
        model.fit(rows, labels)
    print("17,000 x 384 float32, 2,000 queries, k = 10, queries/s")
    for threads in (1, None):
        with threadpool_limits(threads):
            ours, theirs = queries_per_second(models, queries)
        name = "one thread" if threads else "all threads"
        print(
            f"  {name:11}  WeightedKNNClassifier {ours:6.0f}   KNeighborsClassifier (brute, cosine) {theirs:6.0f}"
            f"   ratio {ours / theirs:.1f}"
        )

    rows = rng.standard_normal((200_000, 384), dtype=np.float32)
    model = WeightedKNNClassifier(10).fit(rows, rng.integers(0, 4, len(rows)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (speed,) = queries_per_second([model], queries, repeats=1)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print("200,000 x 384 float32, 2,000 queries, k = 10 (all similarities at once: 3052 MiB)")
    print(
        f"  WeightedKNNClassifier {speed:6.0f} queries/s; the search raised peak memory by {grown / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
