"""Runs of cached tokens: they equal the runs of frames, within the content of the cache."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from alan.cache.run import write_cache
from alan.cache.sequences import TokenSequenceDataModule
from alan.data.loaders.modules import SequenceDataModule
from alan.errors import AlanWarning, CacheError, DataError, ParameterError


@pytest.fixture(scope="module")
def caches(tmp_path_factory, inputs, options):
    """Caches of all frames, of 3 per sequence, of ED and ES, and of CLS alone."""
    folder = tmp_path_factory.mktemp("caches")
    made = {"all": {}, "three": {"frames": 3}, "pairs": {"frames": "annotated"}, "cls": {"features": ["cls"]}}
    return {
        name: write_cache(inputs.store, inputs.backbone, str(folder / name), **extra, **options)
        for name, extra in made.items()
    }


def one_epoch(module):
    module.setup()
    return list(module.train_dataloader())


@pytest.mark.parametrize("workers", [0, 1])
def test_runs_and_tokens_equal_those_of_the_frames(caches, inputs, workers):
    settings = {"n_frames": 2, "period": 2, "batch_size": 2, "seed": 3}
    frames = one_epoch(SequenceDataModule([inputs.store], "train", **settings))
    tokens = one_epoch(
        TokenSequenceDataModule(caches["all"], inputs.store, "train", num_workers=workers, **settings)
    )
    assert len(frames) == len(tokens) == 2
    for mine, reference in zip(tokens, frames, strict=True):
        assert_array_equal(mine["index"], reference["index"])
        assert mine["tokens"].shape == (2, 2, 4, 4, 12)
        assert mine["tokens"].dtype == torch.float32
        assert_allclose(mine["tokens"], inputs.expected["tokens"][mine["index"]], atol=2e-3)
        assert_array_equal(mine["sector"], inputs.expected["sector"][mine["index"]])


def test_a_sequence_consists_of_its_cached_frames(caches, inputs):
    module = TokenSequenceDataModule(caches["three"], inputs.store, n_frames=3, period=2, batch_size=4)
    (batch,) = one_epoch(module)
    assert sorted(map(tuple, batch["index"].tolist())) == [(0, 2, 4), (5, 7, 8), (9, 12, 15), (16, 18, 21)]


def test_ed_and_es_form_pairs(caches, inputs):
    module = TokenSequenceDataModule(caches["pairs"], inputs.store, None, n_frames=None, batch_size=5)
    with pytest.warns(AlanWarning, match="skipped 1 of 6 sequences without ED and ES frames"):
        (batch,) = one_epoch(module)
    assert sorted(map(tuple, batch["index"].tolist())) == [(0, 2), (5, 7), (9, 11), (16, 18), (22, 24)]


def test_unsuitable_caches_and_settings_are_refused(caches, inputs):
    with pytest.raises(CacheError, match="was written with store"):
        TokenSequenceDataModule(caches["all"], inputs.other_store, n_frames=2).setup()
    with pytest.raises(CacheError, match="has no tokens"):
        TokenSequenceDataModule(caches["cls"], inputs.store, n_frames=2).setup()
    with pytest.raises(DataError, match="none of 4 sequences has 16 frames"):
        TokenSequenceDataModule(caches["three"], inputs.store).setup()
    with pytest.raises(ParameterError, match="batch_size is 1: give a whole number of at least 2"):
        TokenSequenceDataModule(caches["all"], inputs.store, batch_size=1)


def test_runs_depend_on_the_seed(caches, inputs):
    drawn = [
        np.concatenate(
            [
                batch["index"]
                for batch in one_epoch(
                    TokenSequenceDataModule(
                        caches["all"], inputs.store, n_frames=2, period=1, batch_size=4, seed=seed
                    )
                )
            ]
        ).tolist()
        for seed in (0, 1)
    ]
    assert drawn[0] != drawn[1]
