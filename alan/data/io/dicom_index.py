"""DICOMDIR, the index of the files of a DICOM medium: which of them are missing."""

from __future__ import annotations

import warnings
from pathlib import Path

from alan.errors import AlanWarning
from alan.extras import third_party
from alan.files import files_below
from alan.words import plural

#: Suffix that some programs add to the names of the files of a medium.
_ADDED = ".dcm"


def describe_index(index: Path) -> str:
    """Return the reason to leave out a DICOMDIR; warn of images that it lists and that are missing."""
    missing, total = count_missing(index)
    if not missing:
        return "an index of DICOM files, not a loop: give its folder"
    lacking = f"{missing} of the {plural(total, 'image')} that it lists {'is' if missing == 1 else 'are'} missing"
    warnings.warn(f"{index}: {lacking}: copy the medium again", AlanWarning, stacklevel=6)
    return f"an index of DICOM files; {lacking}: copy the medium again"


def count_missing(index: Path) -> tuple[int, int]:
    """Count the images of an index that are missing in its folder.

    Letters and an added suffix ``.dcm`` do not count, because programs change them when they copy a medium.

    Args:
        index: The file DICOMDIR.

    Returns:
        Number of images that are missing, and number of images in the index; (0, 0) for a damaged index.
    """
    pydicom = third_party("pydicom", "dicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            records = pydicom.dcmread(index, force=True).get("DirectoryRecordSequence") or ()
            images = [record for record in records if record.get("DirectoryRecordType") == "IMAGE"]
            named = {_parts(record.get("ReferencedFileID")) for record in images} - {()}
        except Exception:  # a damaged index does not prevent the analysis of the files
            return 0, 0
    there = {_parts(path.relative_to(index.parent).parts) for path in files_below(index.parent)}
    return len(named - there), len(named)


def _parts(names: object) -> tuple[str, ...]:
    """Return the parts of the name of a file without what copies change."""
    several = [names] if isinstance(names, str) else names or ()
    found = [str(name).lower() for name in several]  # type: ignore[attr-defined]
    return (*found[:-1], found[-1].removesuffix(_ADDED)) if found else ()
