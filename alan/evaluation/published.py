"""Published results for comparison: Tables 2 and 3 of the ALAN paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PublishedSegmentation = Literal["echonet", "camus"]

#: Mark of each published row in reports.
MARK_SEGMENTATION = "published, ALAN paper Table 2"
MARK_VIEWS = "published, ALAN paper Table 3"

#: Test frames of each phase behind Table 2 (CAMUS: A2C and A4C together).
N_TEST: dict[PublishedSegmentation, int] = {"echonet": 1277, "camus": 100}


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


_COLUMNS: tuple[tuple[PublishedSegmentation, str, str], ...] = (
    ("echonet", "lv", "ES"),
    ("echonet", "lv", "ED"),
    ("camus", "lv", "ES"),
    ("camus", "lv", "ED"),
    ("camus", "la", "ES"),
    ("camus", "la", "ED"),
)
_Row = tuple[tuple[float, float], ...]
_TABLE_2: tuple[tuple[str, int, _Row], ...] = (
    (
        "EchoNet-Dynamic",
        32,
        ((71.91, 10.41), (65.16, 9.17), (61.33, 13.40), (62.80, 8.33), (47.27, 22.94), (45.94, 19.63)),
    ),
    (
        "EchoNet-Dynamic",
        64,
        ((80.11, 8.53), (81.81, 6.58), (73.85, 9.51), (78.13, 8.82), (54.50, 23.48), (53.80, 19.77)),
    ),
    (
        "EchoNet-Dynamic",
        112,
        ((76.44, 8.88), (76.65, 7.64), (75.67, 9.50), (80.00, 9.00), (55.49, 18.28), (61.53, 17.40)),
    ),
    (
        "ImageNet",
        64,
        ((74.55, 13.20), (79.09, 9.45), (68.25, 14.00), (74.89, 9.09), (47.64, 22.37), (53.16, 21.33)),
    ),
)
# The image counts of A2C and A4C are swapped in the paper's table; accuracies are copied as printed.
_TABLE_3: tuple[tuple[str, int, tuple[float, float, float, float, float]], ...] = (
    ("EchoNet-Dynamic", 2, (91.02, 89.14, 95.01, 80.81, 90.78)),
    ("EchoNet-Dynamic", 10, (87.43, 87.33, 95.01, 79.07, 89.53)),
    ("ImageNet", 2, (79.04, 87.78, 97.09, 80.81, 89.53)),
    ("ImageNet", 10, (77.25, 89.14, 98.34, 81.98, 90.30)),
)


def published_dice(dataset: PublishedSegmentation) -> tuple[PublishedDice, ...]:
    """Return the cells of Table 2 for a data set, in the order of the paper."""
    return tuple(
        PublishedDice(training, k, structure, phase, mean / 100, std / 100, N_TEST[name])
        for training, k, values in _TABLE_2
        for (name, structure, phase), (mean, std) in zip(_COLUMNS, values, strict=True)
        if name == dataset
    )


def published_views() -> tuple[PublishedAccuracy, ...]:
    """Return the rows of Table 3, in the order of the paper."""
    names = ("A2C", "A4C", "PLAX", "PSAX", "total")
    return tuple(
        PublishedAccuracy(training, k, {n: value / 100 for n, value in zip(names, values, strict=True)})
        for training, k, values in _TABLE_3
    )
