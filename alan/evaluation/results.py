"""Result of a protocol, and the files of an evaluation's run folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.files import atomic, read_entry, write_json, write_table
from alan.runs import CONFIG, plain

SCHEMA = "alan-results/2"
RESULTS, EXAMPLES, VOLUMES = "results.json", "examples.npz", "per_volume.csv"
#: Name of the rows of gains that take all structures and phases together.
ALL_STRUCTURES = "all structures"
#: Everything that a run may write; ``overwrite`` removes only these.
CONTENTS = (
    CONFIG,
    RESULTS,
    EXAMPLES,
    "per_case.csv",
    VOLUMES,
    "per_image_views.csv",
    "label_efficiency.csv",
    "report.html",
    "summary.csv",
    "summary.tex",
    "columns.csv",
    "models",
    "maps",
    "features",
    "cells",
    "figures",
    "curves",
)


@dataclass
class Result:
    """Result of a protocol.

    Attributes:
        summary: Nested dictionary of plain values, for ``results.json``.
        cases: One row per measured case, for a CSV file.
        models: Mapping from file name to the dictionary of a fitted white box, for ``models/``.
        examples: Arrays of the example frames in the report, for ``examples.npz``.
        volumes: One row per measured volume, for ``per_volume.csv``; None if volumes were not measured.
    """

    summary: dict[str, Any]
    cases: pd.DataFrame
    models: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, NDArray[Any]] = field(default_factory=dict)
    volumes: pd.DataFrame | None = None


def write_result(out: Path, result: Result, cases_name: str) -> None:
    """Write cases, white boxes and examples of a protocol; ``results.json`` comes later and completes the run.

    Args:
        out: Run folder.
        result: Result to write.
        cases_name: File name of the CSV file; NaN becomes an empty cell.
    """
    tables = {cases_name: result.cases} | ({} if result.volumes is None else {VOLUMES: result.volumes})
    for name, table in tables.items():
        write_table(out / name, table)
    for name, model in result.models.items():
        write_json(out / "models" / name, plain(model))
    if result.examples:
        with atomic(out / EXAMPLES) as temporary, temporary.open("wb") as file:
            # mypy mistakes the arrays for the flags of this function
            np.savez_compressed(file, **result.examples)  # type: ignore[arg-type]


def read_results(out: Path) -> dict[str, Any]:
    """Read ``results.json`` of a run folder.

    Raises:
        DataError: The file is missing or has another schema.
    """
    return read_entry(out / RESULTS, SCHEMA, "run alan evaluate again")
