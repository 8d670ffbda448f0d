"""Print the counts of the campaign by verb and fault, from the results that pytest has written.

    make faults PYTEST_ARGS=--junit-xml=faults.xml
    python tests/faults/counts.py faults.xml [MORE.xml]

Tests record ("fault", (verb or file kind, fault, result)), or with a number of trials as a fourth value.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from xml.etree import ElementTree

#: A name, a fault, a result and perhaps a number of trials.
Record = Sequence[str | int]


def count_lines(records: Iterable[Record]) -> Iterator[str]:
    """Give one line for each name and fault, for each name, and for all."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for name, fault, result, *number in records:
        for key in ((name, fault), (name, "~all"), ("~all", "~all")):
            counts.setdefault(key, Counter()).update(dict.fromkeys(("tried", result), number[0] if number else 1))
    for (name, fault), count in sorted(counts.items()):
        numbers = "  ".join(f"{word} {count[word]:6}" for word in ("tried", "refused", "right", "wrong"))
        yield f"{name.strip('~'):30} {fault.strip('~'):36} {numbers}"


def records_in(path: str) -> Iterator[Record]:
    """Read the records in a file of results."""
    for item in ElementTree.parse(path).iter("property"):
        if item.get("name") == "fault":
            yield ast.literal_eval(item.get("value", ""))


if __name__ == "__main__":
    print("\n".join(count_lines(record for path in sys.argv[1:] for record in records_in(path))))
