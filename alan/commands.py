"""The verbs of the command line that are plain functions: their signatures are the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import yaml

from alan.cache.run import write_cache
from alan.data.dataset import open_dataset
from alan.data.prepare import prepare as prepare_store
from alan.data.preprocessing import Preprocessing
from alan.data.simulator import simulate_archive
from alan.errors import DataError
from alan.evaluation.run import run_evaluation
from alan.evaluation.segmentation import SegmentationProtocol
from alan.evaluation.views import ViewProtocol
from alan.report.html import write_report

__all__ = ["cache", "evaluate", "prepare", "report", "simulate"]

cache = write_cache
simulate = simulate_archive
