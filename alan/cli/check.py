"""The verb ``alan check``: its signature is its options."""

from __future__ import annotations

import logging
import sys
from typing import Any

from alan.cli.prepare import reader_options
from alan.words import plural

_log = logging.getLogger(__name__)


def check(
    kind: str,
    root: str,
    *,
    split: dict[str, Any] | str | None = None,
    views: list[str] | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Read everything in an archive, write nothing, and print a table of what is wrong.

    Args:
        kind: Kind of the archive, such as echonet, camus, tmed, acdc, folder, coco or segments, or the class of a
            reader of your own (module.Class).
        root: Folder of the archive.
        split: Mapping from split to patients, such as {"train": "1-300", "test": "301-400"}, a YAML file of that,
            or a word of the reader (camus: official; tmed: study, published); null takes the default of the
            reader.
        views: Views to read, for archives with several; null reads all of them.
        options: Further options of the reader, by name.

    Raises:
        SkippedError: Something is wrong; the command line exits with code 1.
    """
    from alan.data.readers.check import check_archive
    from alan.errors import SkippedError

    problems, samples = check_archive(kind, root, **reader_options(kind, split, views, options))
    if not problems:
        _log.info("%s: %d samples, nothing is wrong", root, samples)
        return
    rows = [("file", "what is wrong", "what to do"), *problems]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for file, reason, remedy in rows:
        sys.stdout.write(f"{file:<{widths[0]}}  {reason:<{widths[1]}}  {remedy}\n")
    raise SkippedError(f"{root}: {plural(len(problems), 'problem')} in {plural(samples, 'sample')}, see the table")
