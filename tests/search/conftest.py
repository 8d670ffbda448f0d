"""A space of sixty points whose scores are a formula: a search of it takes no time."""

import optuna
import pytest
from optuna.storages import InMemoryStorage

from alan.search.settings import StudySettings
from alan.search.space import SearchSpace
from alan.search.storage import open_storage
from alan.search.study import SearchStudy
from alan.search.trial import Outcome

SPACE = SearchSpace(
    encoders=("resnet18", "resnet34", "mobilenet_v2", "efficientnet-b0", "vgg11"),
    decoders=("unet", "fpn"),
    lrs=(1e-2, 1e-3, 1e-4),
    batch_sizes=(4, 8),
)


def score(point):
    """Best at (mobilenet_v2, fpn, 1e-3, 8)."""
    iou = 0.1 * SPACE.encoders.index(point.encoder) * (4 - SPACE.encoders.index(point.encoder)) + 0.2
    return iou + 0.1 * (point.decoder == "fpn") + 0.05 * (point.lr == 1e-3) + 0.02 * (point.batch_size == 8)


def objective(point, report):
    return Outcome(score(point), 0.01 * len(point.encoder), {"parameters": 10})


@pytest.fixture
def open_study(tmp_path):
    """``open_study(n, ...)``: a study, the same one each time unless settings say otherwise.

    It is kept in memory, or with ``disk=True`` in ``tmp_path / "study.db"``.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    storages = [InMemoryStorage()]

    def opened(n_trials=10, *, space=SPACE, identity=None, disk=False, **settings):
        asked = StudySettings(n_trials, **{"heartbeat": 1, **settings})
        if disk:
            storages.append(open_storage(tmp_path / "study.db", None, asked.heartbeat, asked.grace))
        storage = storages[-1] if disk else storages[0]
        points, identity = space.points(), identity or {}
        return SearchStudy.open(storage, space, points, asked, identity=identity, validations=5)

    yield opened
    optuna.logging.set_verbosity(level)
    for storage in storages[1:]:
        storage.engine.dispose()
