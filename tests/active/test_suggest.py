"""Ranked suggestions from folders and stores."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from alan.active.dropout import MonteCarloDropout
from alan.active.pool import FolderPool, PartialScores
from alan.active.suggest import open_pool, suggest_images
from alan.data.store.reader import FrameStore
from alan.errors import DataError, ParameterError
from alan.files import write_json
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

SPEC = NetworkSpec("unet_acdc", None, decoder_channels=(4, 8), dropout=0.3, dropout_at="decoder")


def model(size=32, structures=("lv",), spec=SPEC):
    return untrained_segmenter(spec, structures, size=size)


@pytest.fixture
def folder(tmp_path):
    """Seven pictures of two sizes; the first has a mask."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for i in range(7):
        size = (48, 40) if i % 2 else (32, 32)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / "images" / f"p{i}.png")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "masks" / "p0.png")
    return tmp_path


def test_unlabelled_pictures_of_a_folder_are_ranked(folder):
    pool = open_pool(str(folder), 32)
    found = suggest_images(model(), pool, 4, passes=5, seed=3, batch_size=2, shown=2)
    assert len(pool) == 6
    scores = {}
    for position in range(6):
        frame = torch.from_numpy(pool.read([position]))
        statistics = MonteCarloDropout(model(), 5, 3).statistics(frame)
        scores[str(pool.describe(position)["image"])] = float(statistics.scores("mfe"))
    best = sorted(scores, key=scores.get, reverse=True)[:4]
    assert found.table["image"].tolist() == best
    assert found.table["rank"].tolist() == [1, 2, 3, 4]
    assert found.table["score"].tolist() == pytest.approx([scores[name] for name in best], rel=1e-4)
    assert "images/p0.png" not in scores
    assert found.frames.shape == found.labels.shape == found.maps.shape == (2, 32, 32)
    assert found.maps.sum((1, 2)) == pytest.approx(found.table["score"][:2], rel=1e-4)
    assert len(open_pool(str(folder), 32, include_labelled=True)) == 7
    assert len(open_pool(str(folder / "images"), 32)) == 7  # a plain folder has no masks


@pytest.mark.parametrize(("scale", "warned"), [(0.0, True), (1000.0, False)])
def test_an_untrained_network_gives_a_warning(folder, caplog, scale, warned):
    network = model()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(scale)
    suggest_images(network, open_pool(str(folder), 32), 2, passes=2)
    assert ("entropy is 100% of the largest possible one" in caplog.text) == warned


def test_every_option_changes_the_ranking(folder):
    pool = open_pool(str(folder), 32)

    def names(**options):
        return suggest_images(model(), pool, 3, passes=4, **options).table["image"].tolist()

    assert names(function="random", seed=0) != names(function="random", seed=1)
    diverse = names(diversity="encoder", candidates=2)
    assert diverse[0] == names()[0]
    assert diverse != names()
    assert names(diversity="encoder", candidates=1) != diverse
    random = suggest_images(
        model(structures=("lv", "myo"), spec=NetworkSpec("unet_acdc", None)), pool, 2, "random", shown=1
    )
    assert random.function == "mfe"
    assert random.maps.shape == (1, 32, 32)


def test_unlabelled_frames_of_a_store_are_ranked(discs):
    """Every third frame of the store has no mask."""
    pool = open_pool(discs.store, 32, split="train")
    assert pool.frames.tolist() == list(range(2, 24, 3))
    found = suggest_images(model(), pool, 8, "std", passes=3)
    store = FrameStore(discs.store)
    assert set(found.table.columns) == {"rank", "image", "patient", "view", "frame", "score"}
    assert set(found.table["patient"]) == {f"p{i}" for i in range(8)}
    assert found.table["image"].str.endswith(":2").all()
    assert np.array_equal(found.frames, store.frames(found.table["frame"].to_numpy()))
    assert len(open_pool(discs.store, 32, include_labelled=True)) == len(store)


def test_an_interrupted_scoring_resumes(folder, tmp_path, monkeypatch):
    network, pool, part = model(), open_pool(str(folder), 32), tmp_path / "part.json"
    straight = suggest_images(network, pool, 6, passes=3, batch_size=2)
    monkeypatch.setattr(PartialScores.__init__, "__defaults__", (0.0,))
    statistics, seen = MonteCarloDropout.statistics, []

    def cut(self, frames, stop=2):
        seen.append(len(frames))
        if len(seen) == stop + 1:
            raise KeyboardInterrupt
        return statistics(self, frames)

    monkeypatch.setattr(MonteCarloDropout, "statistics", cut)
    with pytest.raises(KeyboardInterrupt):
        suggest_images(network, pool, 6, passes=3, batch_size=2, partial=part)
    assert part.is_file()
    seen[:] = [0] * 9
    found = suggest_images(network, pool, 6, passes=3, batch_size=2, shown=2, partial=part)
    assert seen[9:] == [2, 2]  # what was left of the pool, and the head of the list
    assert found.table.equals(straight.table)
    assert not part.exists()
    scores = {"mfe": [0.0] * 4}
    write_json(part, {"key": "of another network", "done": 4, "scores": scores})
    assert suggest_images(network, pool, 6, passes=3, batch_size=2, partial=part).table.equals(straight.table)


@pytest.mark.parametrize("name", ["p3.png", "p3_mask.png"])
def test_pictures_with_a_mask_are_labelled_whatever_suffix_its_name_has(folder, name):
    (folder / "masks" / name).touch()
    assert "p3.png" not in {path.name for path in FolderPool(folder).paths}


@pytest.mark.parametrize("function", ["mfe", "random"])
def test_unreadable_pictures_are_listed(folder, function):
    (folder / "images" / "p3.png").write_bytes(b"nothing")
    pool = FolderPool(folder, 32)
    found = suggest_images(model(), pool, 6, function, passes=2)
    assert len(found.table) == 5
    ((name, reason),) = found.failures
    assert name == "images/p3.png"
    assert "p3.png" in reason
    for path in (folder / "images").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of 6 images can be read"):
        suggest_images(model(), FolderPool(folder, 32), 1, function, passes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is 0: give a whole number of at least 1"),
        ({"n": 7}, "n is 7, but the pool holds 6 images: lower n"),
        ({"passes": 1}, "passes is 1"),
        ({"function": "entropy"}, "unknown acquisition function 'entropy'"),
        ({"function": "k_centre"}, "function is 'k_centre', which `alan active run` measures: give one of random"),
        ({"candidates": 0}, "candidates is 0"),
    ],
)
def test_invalid_options_are_refused(options, message, folder):
    with pytest.raises(ParameterError, match=message):
        suggest_images(model(), open_pool(str(folder), 32), **{"n": 2, **options})


def test_invalid_pools_are_refused(folder, discs, tmp_path):
    with pytest.raises(ParameterError, match="no dropout"):
        suggest_images(model(spec=NetworkSpec("unet_acdc", None)), open_pool(str(folder), 32), 1)
    with pytest.raises(DataError, match=r"pictures of the sizes \[\(32, 32\), \(48, 40\)\]"):
        FolderPool(folder).read([0, 1])
    with pytest.raises(ParameterError, match="is a folder, which has no splits and views"):
        open_pool(str(folder), 32, split="train")
    with pytest.raises(DataError, match="no such folder"):
        open_pool(str(folder / "nowhere"), 32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="the pool is empty, no picture"):
        open_pool(str(tmp_path / "empty"), 32)
    for i in range(7):
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "masks" / f"p{i}.png")
    with pytest.raises(DataError, match="all of its 7 pictures have masks"):
        open_pool(str(folder), 32)


@pytest.mark.filterwarnings("always::alan.errors.AlanWarning")
def test_active_verbs_run_from_the_command_line(discs, alan, tmp_path):
    """Run both verbs on a tiny store, and check the errors of the command line."""
    from alan.supervised.segmenter import save_segmenter

    out, network = tmp_path / "run", tmp_path / "segmenter.safetensors"
    options = ["--loop.functions=[random,mfe]", "--loop.initial=3", "--loop.per_phase=3", "--loop.phases=2"]
    options += ["--training.network={decoder: unet_acdc, encoder: null, decoder_channels: [4, 8], dropout: 0.3}"]
    options += [
        "--training.losses={bce: 1.0}",
        "--training.steps=2",
        "--training.accelerator=cpu",
        "--loop.passes=2",
    ]
    run = ["active", "run", "--data.store", discs.store, *options]
    ran = alan(*run, "--out", out)
    assert ran.code == 0, ran.err
    assert len(pd.read_csv(out / "phases.csv")) == 4
    assert (out / "report.html").read_text().startswith("<!")
    save_segmenter(model(), network)
    suggest = ["active", "suggest", "--network", network, "--input", discs.store, "--n", 5, "--passes", 2]
    ran = alan(*suggest, "--out", tmp_path / "next", "--diversity", "encoder")
    assert ran.code == 0, ran.err
    assert len(pd.read_csv(tmp_path / "next" / "suggestions.csv")) == 5
    assert (tmp_path / "next" / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "list reused" in alan(*suggest, "--out", tmp_path / "next", "--diversity", "encoder").err
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(np.full((32, 32), 90, np.uint8)).save(pictures / "good.png")
    (pictures / "bad.png").write_bytes(b"nothing")
    suggest[5] = pictures
    suggest[7] = 1
    for code, strict in ((0, []), (1, ["--strict", "true"])):
        ran = alan(*suggest, "--out", tmp_path / f"skips{code}", *strict)
        assert ran.code == code, ran.err
        assert "skipped 1 of 2 files" in ran.err
        assert "bad.png" in (tmp_path / f"skips{code}" / "failures.csv").read_text()
        assert pd.read_csv(tmp_path / f"skips{code}" / "suggestions.csv")["image"].tolist() == ["good.png"]
    suggest[5], suggest[7] = discs.store, 5
    for args, message in (
        ([*suggest, "--out", tmp_path / "next"], "another configuration (diversity)"),
        ([*suggest, "--out", tmp_path / "other", "--passes", 1], "passes is 1: give a whole number of at least 2"),
        ([*suggest, "--out", tmp_path / "other", "--function", "mf"], "did you mean 'mfe'?"),
        (
            [*suggest, "--out", tmp_path / "other", "--device", "abacus"],
            "device is 'abacus', which cannot be used here",
        ),
        ([*suggest, "--out", network], "is a file; a run needs a folder"),
        ([*run, "--out", tmp_path / "other", "--loop.budget", 2], "budget is 2, below the initial set"),
        (["active", "sugest"], "did you mean 'active suggest'?"),
        (["active"], "unknown verb 'active'"),
    ):
        failed = alan(*args)
        assert (failed.code, len(failed.lines)) == (2, 1), failed.err
        assert message in failed.err
    assert not (tmp_path / "other").exists()
    asked = alan("active", "--help")
    assert asked.code == 0
    assert "active suggest" in asked.out
