"""Tell apart people whose headers have one PatientID."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from alan.data.io.dicom_header import Person
from alan.data.pseudonyms import patient_key


class Identities(NamedTuple):
    """Patients of loops.

    Attributes:
        keys: Pseudonymous key of the patient of each loop, or empty if it is unknown.
        doubts: Mapping from the key of a patient who may be several people, or one of several, to the reason.
    """

    keys: tuple[str, ...]
    doubts: Mapping[str, str]


def tell_apart(persons: Sequence[Person]) -> Identities:
    """Keep loops of one PatientID and different dates of birth apart, and doubt those of different names.

    Names may differ by their spelling, so they raise a doubt, unless all loops have one date of birth.

    Args:
        persons: Person of each loop; those without a key are unknown.
    """
    groups: dict[str, list[Person]] = defaultdict(list)
    for person in persons:
        groups[person.key].append(person)
    groups.pop("", None)
    doubts: dict[str, str] = {}
    shared: set[str] = set()
    for key, group in groups.items():
        births = _known(person.birth for person in group)
        if len(births) > 1:
            shared.add(key)
            reason = f"its PatientID is that of loops with {len(births)} dates of birth, which are kept apart"
            doubts |= dict.fromkeys((_key(person, shared) for person in group), reason)
        elif len(_known(person.name for person in group)) > 1 and not all(person.birth for person in group):
            doubts[key] = "its loops have one PatientID and different names: they may be of several people"
    return Identities(tuple(_key(person, shared) for person in persons), doubts)


def _key(person: Person, shared: Set[str]) -> str:
    """Return the key of a person, which includes the date of birth if the PatientID is shared."""
    return patient_key(f"{person.key} {person.birth}") if person.key in shared and person.birth else person.key


def _known(values: Iterable[str]) -> set[str]:
    return set(values) - {""}
