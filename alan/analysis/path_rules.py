"""What the path of a file states by rules of the user: its patient and its view."""

from __future__ import annotations

import re
from collections.abc import Mapping

from alan.errors import ParameterError


def compile_rule(rule: str | None) -> re.Pattern[str] | None:
    """Compile the rule for the patient.

    Raises:
        ParameterError: It is not a regular expression or has no group ``patient``.
    """
    if rule is None:
        return None
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ParameterError(f"patient is {rule!r}: give a regular expression ({error})") from error
    if "patient" not in pattern.groupindex:
        raise ParameterError(
            f"patient is {rule!r}: give a regular expression with the group (?P<patient>...), such as "
            r"'(?P<patient>patient\d+)'"
        )
    return pattern


def captured_patient(rule: re.Pattern[str] | None, relative: str) -> str:
    """Return what the rule captures as the patient in the path of a file; empty if there is no rule or match."""
    match = None if rule is None else rule.search(relative)
    return match["patient"] or "" if match else ""


def stated_view(views: Mapping[str, str], relative: str) -> str | None:
    """Return the view whose text occurs in the path of a file; None if there is none.

    Raises:
        ParameterError: The path has the texts of two views.
    """
    found = {view: text for text, view in views.items() if text in relative}
    if len(found) > 1:
        texts = " and ".join(map(repr, found.values()))
        raise ParameterError(
            f"view gives {' and '.join(found)} for {relative}, which holds {texts}: give one of them"
        )
    return next(iter(found), None)
