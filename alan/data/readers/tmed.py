"""TMED-2: stills with a view label and a diagnosis of aortic stenosis."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from alan.bounds import bounded
from alan.data.io.pictures import read_picture
from alan.data.readers.base import EchoDataset
from alan.data.readers.tables import read_rows
from alan.data.sample import SPLITS, VIEWS, Record, Sample
from alan.errors import AlanWarning, DataError, ParameterError

_COLUMNS = ("query_key", "SourceFolder", "view_label")
_SPLIT_COLUMN = "view_classifier_split"
_DIAGNOSES = ("diagnosis_label", "diagnosis_classifier_split")
_NAME = re.compile(r"(?P<study>(?P<patient>\d+)s\d+)_\d+\.png", re.IGNORECASE)


@bounded
class Tmed2(EchoDataset):
    """TMED-2, the Tufts Medical Echocardiogram Dataset.

    **Format:** PNG stills (112 x 112, grey) in the folders of the column ``SourceFolder`` of a CSV file with
    one row per still. The file ``1009s2_10.png`` is image 10 of study ``1009s2`` of patient ``1009``.

    **Size:** 599 labelled studies of 577 patients, and unlabelled ones.

    **Licence:** data use agreement of Tufts Medical Center: research only, no redistribution.

    **Citation:** Huang et al., "TMED 2: a dataset for semi-supervised classification of echocardiograms",
    DataPerf workshop at ICML 2022.

    Images whose view label is none of PLAX, PSAX, A4C and A2C (such as ``A4CorA2CorOther``) have the view
    ``""``. Rows without an image, or with a malformed name, are skipped and counted, with a warning. Pixel sizes
    are unknown.

    Args:
        root: Folder of the release.
        split: ``study`` takes ``view_classifier_split`` of the table and refuses it if a patient or study is in
            two splits; other words than train, val and test give no split. ``published`` takes views and splits
            from the image-wise list behind Table 3 of the ALAN paper, **which leaks**: a warning is given and
            recorded in ``leaks``. The paper tests on its ``val``, which becomes ``test`` here.
        labels: The table, absolute or relative to ``root``. Default: the only CSV file in ``root`` or in a folder
            directly in it that has the columns.
        published_list: The published list (``Name;Class;Type``), needed for ``split="published"`` only. It is
            cumulative: the first line of a file counts.
        views_only: Whether to leave out images without a view.

    Raises:
        ParameterError: An unknown ``split``, or ``published`` without its list (or the reverse).
        DataError: A missing folder, table or column; several tables to choose from.
        SplitLeakError: The study-wise split leaks.
    """

    name = "TMED-2"
    structures = ()

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        split: Literal["study", "published"] = "study",
        labels: str | os.PathLike[str] | None = None,
        published_list: str | os.PathLike[str] | None = None,
        views_only: bool = False,
    ) -> None:
        super().__init__(root, "the images and their table of labels")
        if (split == "published") != (published_list is not None):
            raise ParameterError(
                "split='published' and published_list (the path of the image-wise list) go together: give both"
            )
        required = _COLUMNS if published_list is not None else (*_COLUMNS, _SPLIT_COLUMN)
        path = self.root / labels if labels is not None else _find_table(self.root, required)
        rows = read_rows(path, required, (*_DIAGNOSES, _SPLIT_COLUMN))
        published = _read_published(Path(published_list)) if published_list is not None else None
        known = {name.lower(): name for name in VIEWS}
        records: list[Record] = []
        images: list[list[Path]] = []
        missing: list[str] = []
        unnamed: list[str] = []
        for row in rows:
            key = row["query_key"]
            folder = PurePosixPath(row["SourceFolder"].replace("\\", "/").strip("/"))
            if ".." in folder.parts:
                raise DataError(
                    f"{path}: {key}: SourceFolder {str(folder)!r} leads out of the dataset; correct it"
                )
            image = self.root / folder / key
            parts = _NAME.fullmatch(key)
            view, part = row["view_label"], row.get(_SPLIT_COLUMN, "")
            if published is not None:
                view, part = published.get(key, ("", ""))
            view = known.get(view.strip().lower(), "")
            if parts is None:
                unnamed.append(key)
            elif not image.is_file():
                missing.append((folder / key).as_posix())
            elif view or not views_only:
                records.append(
                    Record(
                        id=Path(key).stem,
                        patient=parts["patient"],
                        split=part if part in SPLITS else "",
                        view=view,
                        study=parts["study"],
                        attributes={name: row[name] for name in _DIAGNOSES if row.get(name)},
                    )
                )
                images.append([image])
        self._skip("rows whose query_key is not like 1009s2_10.png", unnamed, "correct the names")
        self._skip("rows without an image", missing, "get the images again")
        if records and not any(record.view for record in records):
            found = ", ".join(sorted({row["view_label"] for row in rows})[:6])
            warnings.warn(
                f"{self.name}: no image has a view: the labels are {found}; give {', '.join(VIEWS)}",
                AlanWarning,
                stacklevel=3,
            )
        if published is not None:
            self.leaks = _describe_leak(records)
            warnings.warn(f"{self.name}: {self.leaks}", AlanWarning, stacklevel=3)
        self._set_records(records, images, {"split": split, "views_only": views_only}, [path])

    def _load(self, index: int) -> Sample:
        frame = read_picture(self._files[index][0])
        return Sample(self.records[index], frame[None])


def _find_table(root: Path, required: Sequence[str]) -> Path:
    """Find the CSV file with the columns; a single file is always taken, to name what it lacks."""
    candidates = sorted([*root.glob("*.csv"), *root.glob("*/*.csv")])
    if not candidates:
        raise DataError(f"{root}: no CSV file with the columns {', '.join(required)}; give its path as 'labels'")
    if len(candidates) == 1:
        return candidates[0]
    fitting = [path for path in candidates if _has_columns(path, required)]
    if len(fitting) != 1:
        shown = ", ".join(path.relative_to(root).as_posix() for path in (fitting or candidates)[:6])
        raise DataError(
            f"{root}: {len(fitting)} of {len(candidates)} CSV files have the columns {', '.join(required)}; "
            f"give one as 'labels' ({shown})"
        )
    return fitting[0]


def _has_columns(path: Path, required: Sequence[str]) -> bool:
    try:
        read_rows(path, required)
    except DataError:
        return False
    return True


def _read_published(path: Path) -> dict[str, tuple[str, str]]:
    """Map file names to (view, split); the first line of a file counts."""
    splits = {"train": "train", "val": "test"}
    published: dict[str, tuple[str, str]] = {}
    for row in read_rows(path, ("Name", "Class", "Type")):
        published.setdefault(row["Name"], (row["Class"], splits.get(row["Type"], "")))
    return published


def _describe_leak(records: Sequence[Record]) -> str:
    studies = {record.study for record in records if record.split == "train"}
    tested = [record for record in records if record.split == "test"]
    leaking = sum(record.study in studies for record in tested)
    return (
        f"the published image-wise split leaks: {leaking} of {len(tested)} test images come from a study that "
        "is also in training; use split='study' for unbiased figures"
    )
