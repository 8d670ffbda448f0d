"""Find files that are copies of one another."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from alan.data.io.medical import medical_files
from alan.files import digest

#: Number of bytes that are compared at three positions of files of the same size.
_PART = 2**12


def find_copies(files: Mapping[str, Path]) -> dict[str, str]:
    """Map each file whose bytes equal those of an earlier file to that file.

    Args:
        files: Mapping from a name to the file; the names are sorted.

    Returns:
        Mapping from the name of a copy to that of the first file. Empty and unreadable files have no copies.
    """
    copies = dict[str, str]()
    for alike in _groups(sorted(files), files, lambda parts: sum(path.stat().st_size for path in parts)):
        for again in _groups(alike, files, lambda parts: b"".join(map(_glance, parts))):
            # uncompressed loops share a size, so most are not read completely
            for first, *others in _groups(again, files, lambda parts: "".join(map(digest, parts))):
                copies |= dict.fromkeys(others, first)
    return copies


def _groups(
    names: Iterable[str], files: Mapping[str, Path], key: Callable[[tuple[Path, ...]], object]
) -> Iterator[list[str]]:
    """Group files by a key of their parts; those without an equal, empty and unreadable ones are left out."""
    groups = defaultdict[object, list[str]](list)
    for name in names:
        with contextlib.suppress(OSError):
            groups[key(medical_files(files[name]))].append(name)
    return (group for value, group in groups.items() if value and len(group) > 1)


def _glance(path: Path) -> bytes:
    """Read the beginning, the middle and the end of a file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        parts = []
        for start in (0, size // 2, max(0, size - _PART)):
            file.seek(start)
            parts.append(file.read(_PART))
    return b"".join(parts)
