"""Writing a cache from a store with real (tiny) models: contents, resume, refusals, devices."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from alan.cache.reader import FeatureCache
from alan.cache.run import write_cache
from alan.cache.shard import part_path
from alan.cache.writer import CacheWriter, FeatureModule
from alan.data.store.reader import FrameStore
from alan.errors import CacheError, CheckpointError, DataError, ParameterError

KINDS = ("cls", "tokens", "logits", "maps")
CONFIGS = Path(__file__).parents[2] / "configs" / "cache"


def check(cache, expected):
    """Check that the cache contains the output of the models for every frame."""
    for name in cache.names:
        found, wanted = cache.read(name, cache.index), expected[name][cache.index]
        assert found.dtype == wanted.dtype
        assert_allclose(found.astype(np.float64), wanted.astype(np.float64), atol=2e-3, rtol=2e-3)


def test_every_output_of_every_frame_is_cached(tmp_path, inputs, options, caplog):
    caplog.set_level("INFO")
    out = write_cache(
        inputs.store,
        inputs.backbone,
        str(tmp_path / "all.h5"),
        parcels=inputs.parcels,
        features=KINDS,
        batch_size=7,
        num_workers=1,
        **options,
    )
    assert caplog.messages[-1] == f"{out}: cls, tokens, logits, maps of 30 frames"
    assert "GPU available" not in caplog.text
    cache = FeatureCache(out, *inputs.models)
    assert_array_equal(cache.index, np.arange(30))
    assert set(cache.names) == {*KINDS, "sector"}
    check(cache, inputs.expected)
    assert inputs.expected["sector"].any() and not inputs.expected["sector"].all()  # noqa: PT018
    assert [path.name for path in tmp_path.iterdir()] == ["all.h5"]
    assert cache.manifest.settings["frames"] == "all"
    assert cache.manifest.created_by.startswith("alan ")


def test_a_failed_run_is_resumed_without_repeating_frames(tmp_path, inputs, options, monkeypatch):
    out, seen = tmp_path / "c.h5", []
    plain = FeatureModule.predict_step

    def counted(module, batch, batch_idx=0):
        if failing and len(seen) >= 12:
            raise RuntimeError("the power went")
        seen.extend(batch["index"].tolist())
        return plain(module, batch, batch_idx)

    monkeypatch.setattr(FeatureModule, "predict_step", counted)
    failing = True
    with pytest.raises(RuntimeError, match="the power went"):
        write_cache(inputs.store, inputs.backbone, str(out), batch_size=4, **options)
    assert not out.exists()
    assert part_path(out, 0).exists()
    failing = False
    with pytest.raises(CacheError, match=r"belongs to another cache.*backbone .* against .*--overwrite"):
        write_cache(inputs.store, inputs.other_backbone, str(out), batch_size=4, **options)
    write_cache(inputs.store, inputs.backbone, str(out), batch_size=3, **options)
    assert_array_equal(seen, np.arange(30))
    check(FeatureCache(out), inputs.expected)

    write_cache(inputs.store, inputs.backbone, str(out), **options)  # is there: nothing is computed
    assert len(seen) == 30
    with pytest.raises(CacheError, match=r"exists and has another origin .*store .* against .*--overwrite true"):
        write_cache(inputs.other_store, inputs.backbone, str(out), **options)
    check(FeatureCache(out), inputs.expected)
    write_cache(inputs.other_store, inputs.backbone, str(out), overwrite=True, **options)
    assert len(seen) == 60
    with pytest.raises(CacheError, match="store"):
        FeatureCache(out, store=FrameStore(inputs.store))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"split": "val"}, [22, 23, 24]),
        ({"split": "train", "views": ["A2C"]}, [5, 6, 7, 8, 16, 17, 18, 19, 20, 21]),
        ({"frames": "annotated"}, [0, 2, 5, 7, 9, 11, 16, 18, 22, 24]),
        ({"frames": 2, "split": "train"}, [0, 4, 5, 8, 9, 15, 16, 21]),
        ({"frames": 3, "split": "test"}, [25, 27, 29]),
        ({"frames": 1}, [2, 7, 12, 19, 23, 27]),
        ({"frames": 99}, list(range(30))),
    ],
)
def test_chosen_frames_are_cached(inputs, selection, expected):
    assert_array_equal(FrameStore(inputs.store).choose_frames(**selection), expected)


def test_input_size_and_stride_reach_the_backbone(tmp_path, inputs, options):
    for name, size, stride, grid in (("dense", None, 2, 7), ("large", 24, None, 6)):
        out = write_cache(
            inputs.store,
            inputs.backbone,
            str(tmp_path / name),
            features=["tokens"],
            split="val",
            input_size=size,
            stride=stride,
            **options,
        )
        assert FeatureCache(out).read("tokens", [23]).shape == (1, grid, grid, 12)
        with pytest.raises(CacheError, match="backbone"):
            FeatureCache(out, backbone=inputs.models[0])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"features": []}, ParameterError, "features is empty"),
        ({"features": ["token"]}, ParameterError, r"features\[0\] is 'token': did you mean 'tokens'"),
        ({"features": ["maps"]}, ParameterError, "features is maps, which needs parcels"),
        ({"parcels": "p.safetensors"}, ParameterError, "parcels is given and features is cls, tokens"),
        ({"batch_size": 0}, ParameterError, "batch_size is 0"),
        ({"num_workers": -1}, ParameterError, "num_workers is -1"),
        ({"accelerator": "cpu", "devices": "x"}, ParameterError, "devices='x'"),
        ({"frames": 0}, ParameterError, "frames is 0"),
        ({"frames": "most"}, ParameterError, "frames is 'most'"),
        ({"split": "test", "frames": "annotated"}, DataError, "no annotated frame in split 'test'"),
        ({"views": ["PLAX"]}, DataError, "no view PLAX"),
        ({"store": "missing.h5"}, DataError, "missing.h5"),
        ({"backbone": "missing.safetensors"}, CheckpointError, "missing.safetensors"),
    ],
)
def test_invalid_arguments_are_refused_and_leave_no_files(tmp_path, inputs, change, error, words):
    arguments = {"store": inputs.store, "backbone": inputs.backbone, "out": str(tmp_path / "c.h5"), **change}
    with pytest.raises(error, match=words):
        write_cache(**arguments)
    assert not list(tmp_path.iterdir())


def test_a_value_beyond_float16_is_refused_with_its_frame(inputs):
    class Huge(torch.nn.Module):
        def forward(self, frames):
            tokens = torch.ones(2, 4, 4, 12)
            tokens[1] *= 1e6
            return torch.zeros(2, 12), tokens

        def sector(self, frames):
            return inputs.models[0].sector(frames)

    module = FeatureModule(Huge(), None, ["tokens"])
    frames = torch.from_numpy(FrameStore(inputs.store).frames([0, 1]))
    with pytest.raises(CacheError, match=r"tokens of frame 8 is not finite in torch.float16"):
        module.predict_step({"frames": frames, "index": torch.tensor([7, 8])})


def test_models_are_locked_while_they_predict(tmp_path, inputs, options):
    backbone, parcels, _ = inputs.models
    module = FeatureModule(backbone, parcels, KINDS)
    module.train()
    assert not backbone.training
    assert not parcels.head.training
    assert not any(x.requires_grad for x in module.features(torch.zeros(1, 16, 16, dtype=torch.uint8)).values())


def test_two_simulated_ranks_write_one_cache(tmp_path, inputs, manifest):
    """Each rank predicts its share; one is stopped and resumed."""
    from alan.cache.shard import finish

    backbone, _, store = inputs.models
    module = FeatureModule(backbone, None, ["cls", "tokens"])
    for ranks, limit in ((2, 2), (2, None)):
        for rank in range(ranks):
            writer = CacheWriter(
                tmp_path / "c.h5", manifest, np.arange(30), module.layout(store.size), overwrite=False
            )
            writer.open(rank, ranks)
            left = writer.missing()
            assert set(left.tolist()) <= set(np.array_split(np.arange(30), ranks)[rank].tolist())
            parts = [part for part in np.array_split(left, 5) if len(part)]  # a loader gives no empty batch
            for index in parts[: limit if rank else None]:
                batch = {"frames": torch.from_numpy(store.frames(index)), "index": torch.from_numpy(index)}
                writer.write_on_batch_end(None, None, module.predict_step(batch), None, batch, 0)
            writer.close()
    finish(tmp_path / "c.h5")
    check(FeatureCache(tmp_path / "c.h5"), inputs.expected)


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="a process that uses CUDA cannot be forked")
@pytest.mark.parametrize(("split", "frames"), [(None, np.arange(30)), ("val", np.arange(22, 25))])
def test_two_processes_write_the_same_cache_as_one(tmp_path, inputs, options, split, frames):
    """The same with DDP of Lightning on two forked CPU processes."""
    before = dict(os.environ)
    try:
        out = write_cache(
            inputs.store,
            inputs.backbone,
            str(tmp_path / "c.h5"),
            split=split,
            batch_size=5,
            accelerator="cpu",
            devices=2,
            strategy="ddp_fork",
        )
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.h5", "c.h5.rank0", "c.h5.rank1"]
    cache = FeatureCache(out, inputs.models[0], store=inputs.models[2])
    assert_array_equal(np.sort(cache.index), frames)
    check(cache, inputs.expected)
    single = write_cache(
        inputs.store, inputs.backbone, str(tmp_path / "1.h5"), split=split, batch_size=5, **options
    )
    if split is None:  # the same batches
        for name in cache.names:
            assert_array_equal(cache.read(name, frames), FeatureCache(single).read(name, frames))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_finished_rows(tmp_path, inputs, options, monkeypatch, number):
    out, batches, features = tmp_path / "c.h5", [], FeatureModule.features

    def interrupted(self, frames):
        batches.append(len(frames))
        if len(batches) == 4:  # the first computes the layout
            os.kill(os.getpid(), number)
        return features(self, frames)

    arguments = (inputs.store, inputs.backbone, str(out))
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        patch.setattr(FeatureModule, "features", interrupted)
        with pytest.raises(BaseException) as caught:  # noqa: PT011 (told apart below)
            write_cache(*arguments, batch_size=5, **options)
    if number == signal.SIGINT:
        assert caught.type is KeyboardInterrupt
    else:
        assert (caught.type, caught.value.code) == (SystemExit, 143)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not out.exists()
    batches.clear()
    with monkeypatch.context() as patch:
        patch.setattr(FeatureModule, "features", lambda self, x: batches.append(len(x)) or features(self, x))
        write_cache(*arguments, batch_size=5, **options)
    assert sum(batches[1:]) in (15, 20)  # not 30: what was written is not computed again
    check(FeatureCache(out), inputs.expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_cache_written_on_a_gpu_equals_that_of_the_cpu(tmp_path, inputs, precision):
    arguments = {"parcels": inputs.parcels, "features": KINDS, "precision": precision, "batch_size": 8}
    out = write_cache(
        inputs.store, inputs.backbone, str(tmp_path / "c.h5"), accelerator="gpu", devices=1, **arguments
    )
    cache = FeatureCache(out, *inputs.models)
    tolerance = 2e-2 if precision == "32-true" else 0.2
    assert_allclose(cache.read("cls", cache.index), inputs.expected["cls"], atol=tolerance)
    assert (cache.read("maps", cache.index) == inputs.expected["maps"]).mean() > 0.9


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_runs(tmp_path, inputs, options, config):
    settings = yaml.safe_load(config.read_text())
    tiny = {"store": inputs.store, "backbone": inputs.backbone, "out": str(tmp_path / "c.h5")}
    if "parcels" in settings:
        tiny["parcels"] = inputs.parcels
    out = write_cache(**{**settings, **tiny, **options, "num_workers": 0})
    cache = FeatureCache(out)
    assert set(cache.names) - {"sector"} == set(settings["features"])
    assert json.loads(json.dumps(dict(cache.manifest.settings)))["frames"] == settings["frames"]
