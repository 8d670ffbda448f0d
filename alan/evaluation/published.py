"""Published results for comparison: Tables 2 and 3 of the ALAN paper."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PublishedSegmentation = Literal["echonet", "camus"]

#: Mark of each published row in reports.
MARK_SEGMENTATION = "published, ALAN paper Table 2"
MARK_VIEWS = "published, ALAN paper Table 3"


@dataclass(frozen=True)
class PublishedDice:
    """Cell of Table 2.

    Attributes:
        training: Training data of the DINO backbone.
        k: Number of parcels.
        structure: ``lv`` or ``la``.
        phase: ``ED`` or ``ES``.
        mean: Mean Dice score, from 0 to 1.
        std: Standard deviation over test frames.
        n: Number of test frames.
    """

    training: str
    k: int
    structure: str
    phase: str
    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class PublishedAccuracy:
    """Row of Table 3, on 1,041 test images; the split leaks by study.

    Attributes:
        training: Training data of the DINO backbone.
        k: Number of neighbours.
        accuracy: View, or ``total``, to accuracy, from 0 to 1.
        n: Number of test images.
    """

    training: str
    k: int
    accuracy: dict[str, float]
    n: int = 1041


def _read(table: str) -> list[dict[str, str]]:
    """Read the rows of a table of the paper, in percent, from ``published.csv`` beside this file.

    The image counts of A2C and A4C are swapped in Table 3 of the paper; its accuracies are copied as printed.
    """
    with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["table"] == table]


def published_dice(dataset: PublishedSegmentation) -> tuple[PublishedDice, ...]:
    """Return the cells of Table 2 for one archive, in the order of the table."""
    return tuple(
        PublishedDice(
            row["training"],
            int(row["k"]),
            row["structure"],
            row["phase"],
            float(row["mean"]) / 100,
            float(row["std"]) / 100,
            int(row["n"]),
        )
        for row in _read("2")
        if row["data"] == dataset
    )


def published_views() -> tuple[PublishedAccuracy, ...]:
    """Return the rows of Table 3."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in _read("3"):
        found.setdefault((row["training"], int(row["k"])), {})[row["view"]] = float(row["mean"]) / 100
    return tuple(PublishedAccuracy(*names, accuracy) for names, accuracy in found.items())
