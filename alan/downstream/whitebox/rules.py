"""Registry of selection rules. A new rule is a function in a file of its own and one entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from alan.downstream.whitebox.beta import choose_by_share
from alan.downstream.whitebox.choice import Choice, RuleEvidence, Thresholds
from alan.downstream.whitebox.greedy import choose_greedily
from alan.downstream.whitebox.thresholds import choose_by_thresholds

RuleName = Literal["paper", "relaxed", "greedy", "beta"]


class Rule(NamedTuple):
    """A selection rule.

    Attributes:
        choose: Function that chooses interior parcels.
        thresholds: Default thresholds. Rules that do not choose by them use them only for the table.
    """

    choose: Callable[[RuleEvidence], Choice]
    thresholds: Thresholds


_PAPER = Thresholds(0.75, 0.5, 0.3)
RULES: dict[RuleName, Rule] = {
    "paper": Rule(choose_by_thresholds, _PAPER),
    "relaxed": Rule(choose_by_thresholds, Thresholds(0.5, 0.5, 0.1)),
    "greedy": Rule(choose_greedily, _PAPER),
    "beta": Rule(choose_by_share, _PAPER),
}
