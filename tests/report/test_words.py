"""Words of the report."""

from alan.downstream.whitebox.rules import RULES
from alan.report import words


def test_every_rule_has_a_description():
    assert set(words.RULES) == {*RULES, ""}
