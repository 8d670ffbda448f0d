"""Weighted kNN, compared with its formula, a plain loop and the published DINO code."""

import math
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from alan.downstream.neighbors import WeightedKNNClassifier
from alan.errors import ParameterError


@parametrize_with_checks([WeightedKNNClassifier()])
def test_scikit_learn_estimator_checks_pass(estimator, check):
    check(estimator)


def slow_loop(X, y, queries, k, temperature):
    """Votes by the formula, one pair at a time; neighbours by (-similarity, index)."""
    classes = sorted(set(y))
    out = []
    for query in queries:
        pairs = []
        for i, row in enumerate(X):
            lengths = math.sqrt(sum(a * a for a in row)) * math.sqrt(sum(a * a for a in query))
            dot = sum(a * b for a, b in zip(row, query, strict=True))
            pairs.append((-(dot / lengths) if lengths else 0.0, i))
        votes = dict.fromkeys(classes, 0.0)
        for minus, i in sorted(pairs)[:k]:
            votes[y[i]] += math.exp(-minus / temperature)
        total = sum(votes.values())
        out.append([votes[c] / total for c in classes])
    return np.array(out)


def dino_reference(train, labels, test, *, k, temperature, n_classes):
    """The classifier of the published DINO ``eval_knn.py``: top k, one-hot, exp(s / T), sum."""
    train = torch.nn.functional.normalize(train, dim=1)
    test = torch.nn.functional.normalize(test, dim=1)
    distances, indices = (test @ train.t()).topk(k, largest=True, sorted=True)
    candidates = labels.view(1, -1).expand(len(test), -1)
    neighbours = torch.gather(candidates, 1, indices)
    one_hot = torch.zeros(len(test) * k, n_classes).scatter_(1, neighbours.view(-1, 1), 1)
    weights = distances.clone().div_(temperature).exp_()
    return (one_hot.view(len(test), -1, n_classes) * weights.view(len(test), -1, 1)).sum(1)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 16))
    y = rng.integers(0, 4, 300)
    X = (centres[y] + 1.5 * rng.standard_normal((300, 16))).astype(np.float32)
    return X[:240], y[:240], X[240:], y[240:]


def test_votes_match_hand_computed_values():
    # Similarities of the query (1, 0): 1, 0.6 and 0.8 to classes a, b, b; -1 to c stays outside of k = 3.
    X = [[2.0, 0.0], [3.0, 4.0], [4.0, 3.0], [-1.0, 0.0]]
    model = WeightedKNNClassifier(n_neighbors=3, temperature=0.5).fit(X, ["a", "b", "b", "c"])
    a, b = math.exp(1 / 0.5), math.exp(0.6 / 0.5) + math.exp(0.8 / 0.5)
    assert_allclose(model.predict_proba([[5.0, 0.0]]), [[a / (a + b), b / (a + b), 0]], rtol=1e-6)
    assert model.predict([[5.0, 0.0]]) == ["b"]
    distance, index = model.kneighbors([[5.0, 0.0]])
    assert_array_equal(index, [[0, 2, 1]])
    assert_allclose(distance, [[0, 0.2, 0.4]], atol=1e-7)


def test_temperature_and_neighbours_change_the_answer():
    X, y, query = [[1.0, 0.0], [4.0, 3.0], [4.0, -3.0]], ["near", "far", "far"], [[1.0, 0.0]]
    assert WeightedKNNClassifier(3, temperature=0.07).fit(X, y).predict(query) == ["near"]
    assert WeightedKNNClassifier(3, temperature=1.0).fit(X, y).predict(query) == ["far"]
    assert WeightedKNNClassifier(1, temperature=1.0).fit(X, y).predict(query) == ["near"]


@pytest.mark.parametrize("k", [1, 2, 10])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_equal_a_plain_loop_and_the_published_code(data, k, temperature):
    X, y, queries, truth = data
    model = WeightedKNNClassifier(k, temperature).fit(X, y)
    share = model.predict_proba(queries)
    assert_allclose(
        share, slow_loop(X.tolist(), y.tolist(), queries.tolist(), k, temperature), rtol=2e-5, atol=1e-9
    )
    votes = dino_reference(
        *map(torch.from_numpy, (X, y, queries)), k=k, temperature=temperature, n_classes=4
    ).numpy()
    assert_allclose(share, votes / votes.sum(1, keepdims=True), rtol=1e-3, atol=1e-6)
    assert_array_equal(model.predict(queries), votes.argmax(1))
    assert (model.predict(queries) == truth).mean() > 0.6


def test_neighbours_equal_scikit_learn(data):
    X, y, queries, _ = data
    distance, index = WeightedKNNClassifier(7).fit(X, y).kneighbors(queries)
    reference = KNeighborsClassifier(7, metric="cosine", algorithm="brute").fit(X.astype(np.float64), y)
    expected_distance, expected_index = reference.kneighbors(queries.astype(np.float64))
    assert_array_equal(index, expected_index)
    assert_allclose(distance, expected_distance, atol=1e-6)
    assert_array_equal(WeightedKNNClassifier(3).fit(X, y).kneighbors(queries, 7, False), index)


@settings(max_examples=60)
@given(st.data())
def test_ties_go_to_the_lower_index(draw):
    rng = np.random.default_rng(draw.draw(st.integers(0, 10**6)))
    n, k = draw.draw(st.integers(1, 60)), draw.draw(st.integers(1, 12))
    # Few distinct rows, zero rows among them: nearly everything is tied.
    X = rng.integers(-1, 2, (n, 3)).astype(np.float32)
    queries = rng.integers(-1, 2, (5, 3)).astype(np.float32)
    model = WeightedKNNClassifier(k).fit(X, rng.integers(0, 3, n))
    share, index = model.predict_proba(queries), model.kneighbors(queries, None, False)
    length = np.linalg.norm(X, axis=1)
    for i, query in enumerate(queries):
        assert_array_equal(model.predict_proba(query[None])[0], share[i])
        similarity = X @ query / np.where(length > 0, length, 1) / (np.linalg.norm(query) or 1)
        assert_array_equal(index[i], sorted(range(n), key=lambda j: (-round(similarity[j], 5), j))[: min(k, n)])


def test_many_equal_rows_keep_their_order():
    rng = np.random.default_rng(3)
    row = rng.standard_normal(384).astype(np.float32)
    X = np.tile(row, (500, 1)) * rng.uniform(0.1, 9, (500, 1))
    index = WeightedKNNClassifier(40).fit(X, np.arange(500) % 3).kneighbors(row[None], None, False)
    assert_array_equal(index[0], np.arange(40))


def test_few_rows_are_all_used_as_neighbours():
    X, y = np.eye(3), ["a", "b", "b"]
    model = WeightedKNNClassifier(n_neighbors=100, temperature=1.0).fit(X, y)
    assert model.n_neighbors_ == 3
    expected = [math.e / (math.e + 2), 2 / (math.e + 2)]
    assert_allclose(model.predict_proba([[1.0, 0, 0]]), [expected], rtol=1e-6)
    assert model.kneighbors(X, 50)[1].shape == (3, 3)


def test_zero_vectors_have_similarity_zero():
    model = WeightedKNNClassifier(2).fit([[0.0, 0.0], [-1.0, 0.0], [1.0, 1.0]], [0, 1, 2])
    distance, index = model.kneighbors([[0.0, 0.0], [1.0, 0.0]])
    assert_array_equal(index, [[0, 1], [2, 0]])
    assert_allclose(distance, [[1, 1], [1 - math.sqrt(0.5), 1]], atol=1e-7)


@pytest.mark.parametrize("temperature", [1e-8, 1e-3, 1e6])
@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_extreme_temperatures_and_scales_stay_finite(data, temperature, scale):
    X, y, queries, _ = data
    model = WeightedKNNClassifier(5, temperature).fit(X.astype(np.float64) * scale, y)
    share = model.predict_proba(queries)
    assert_allclose(share.sum(1), 1)
    if temperature == 1e-8:
        nearest = y[model.kneighbors(queries, 1, False)[:, 0]]
        assert_array_equal(model.predict(queries), nearest)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_half_precision_and_whole_numbers_are_accepted(data, dtype):
    X, y, queries, _ = data
    X, queries = (np.abs(a * 10).astype(dtype) for a in (X, queries))
    expected = WeightedKNNClassifier().fit(X.astype(np.float64), y).predict_proba(queries.astype(np.float64))
    assert_array_equal(WeightedKNNClassifier().fit(X, y).predict_proba(queries), expected)


def test_memory_does_not_grow_with_queries_times_rows():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((20_000, 32), dtype=np.float32)
    queries = rng.standard_normal((1_000, 32), dtype=np.float32)
    model = WeightedKNNClassifier(10).fit(X, np.arange(20_000) % 4)
    tracemalloc.start()
    try:
        model.predict(queries)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # all similarities at once: 160 MB; a second copy of the features alone: 5 MB


def test_a_classifier_can_be_pickled(data):
    X, y, queries, _ = data
    model = WeightedKNNClassifier().fit(X, y)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(queries), model.predict_proba(queries))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_neighbors": 0}, "n_neighbors is 0"),
        ({"n_neighbors": 2.5}, "n_neighbors is 2.5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
    ],
)
def test_parameters_out_of_bounds_are_named(parameters, words):
    with pytest.raises(ParameterError, match=words):
        WeightedKNNClassifier(**parameters).fit(np.eye(3), [0, 1, 1])


def test_invalid_use_is_refused():
    with pytest.raises(NotFittedError):
        WeightedKNNClassifier().kneighbors(np.eye(3))
    model = WeightedKNNClassifier().fit(np.eye(3), [0, 1, 1])
    with pytest.raises(ParameterError, match="n_neighbors is 0"):
        model.kneighbors(np.eye(3), 0)
    with pytest.raises(ValueError, match="expecting 3 features"):
        model.predict(np.eye(4))
