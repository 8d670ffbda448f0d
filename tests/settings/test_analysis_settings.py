"""Settings of the analysis of loops and of its banks of views."""

import numpy as np
import pytest

from alan.analysis.loop_analysis import LoopSettings, analyze_loop
from alan.analysis.timeline import TimeSettings, segment_loop
from alan.analysis.views import ViewBank
from alan.backbone.load import random_backbone

from ..analysis.test_loop_analysis import MapModel, made_loop
from ..analysis.test_timeline import BlockModel, beating
from ..analysis.test_views import SPEC, pictures
from ..varying import cases, name_of, study


def ragged():
    """A beating cavity with noise, one frame of which is lost."""
    maps, _ = beating()
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(maps.shape) < 0.2, rng.integers(0, 4, maps.shape), maps).astype(np.uint8)
    noisy[11] = 0
    return noisy


@study(TimeSettings, smoothing_s=0.1, jump=None, phases=False, iterations=1)
def timeline(env, **settings):
    maps = ragged()
    found = segment_loop(BlockModel(), maps, "A4C", np.arange(len(maps)) / 25, TimeSettings(**settings))
    return found.labels, found.phase


@study(
    LoopSettings,
    time=TimeSettings(phases=False),
    samples=0,
    mirror=True,
    untried={
        "view": "the model of these tests knows one",
        "seed": "all draws of this model agree: tests/analysis/test_uncertainty.py",
    },
    base={"view": "A4C", "samples": 8},
)
def loop(env, **settings):
    return analyze_loop(made_loop(ragged()), MapModel(), LoopSettings(**settings), {}).result


@study(
    ViewBank,
    shift=np.linspace(-3, 3, 8, dtype=np.float32),
    labelled=np.arange(30) % 7 == 0,
    directions=np.eye(8, 1, dtype=np.float32),
    n_neighbors=3,
    sure_from=0.0,
    most_frames=2,
    untried={"sides": "it finds mirrored loops: tests/analysis/test_views.py"},
    base={"n_neighbors": 8},
)
def bank(env, **settings):
    frames, views = pictures(30, 0)
    made = ViewBank.build(random_backbone(SPEC), frames, views, **settings)
    found = made.classify(pictures(9, 1)[0])
    return found.votes, found.unsure, found.neighbours


@pytest.mark.parametrize(("study", "name"), cases(__name__), ids=name_of)
def test_each_setting_changes_the_result(study, name):
    study.check(None, name)
