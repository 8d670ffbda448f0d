"""Uploads and downloads of the page, in one folder that is emptied when the last page is closed."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alan.data.io.cine import DICOM, VIDEOS
from alan.data.io.pictures import PICTURES
from alan.errors import DataError
from alan.progress import Progress

#: Largest size of an upload in MB.
MAX_UPLOAD_MB = 1000
#: Suffixes that a file keeps; the rest of its name may identify a patient.
_ENDINGS = {*VIDEOS, *PICTURES, *DICOM, ".gif", ".webp", ".nii", ".gz", ".json"}


class PageClosedError(BaseException):
    """The page of a task was closed; no ``Exception``, so that it does not count as a failure of the file."""


class Uploads:
    """Folder of all files of the page.

    An upload is deleted as soon as it has been read. Everything else, pictures and downloads, is deleted when the
    last open page is closed.

    Args:
        root: An existing folder that contains nothing else.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._open: set[str] = set()
        self._ended = False

    @contextlib.contextmanager
    def taking(self, path: str) -> Iterator[Path]:
        """Rename an uploaded file to a neutral name for a reader, and delete it afterwards.

        Raises:
            DataError: The file is not in the folder, or is a folder.
        """
        file = Path(path).resolve()
        if not file.is_relative_to(self.root) or not file.is_file():
            raise DataError("the file is not an upload of this page: upload it again")
        ending = "".join(part for part in map(str.lower, file.suffixes[-2:]) if part in _ENDINGS)
        neutral = self.place(f"upload{ending}")
        file.rename(neutral)
        try:
            yield neutral
        finally:
            neutral.unlink(missing_ok=True)

    def place(self, name: str) -> Path:
        """Return a new path in the folder that ends in ``name``."""
        folder = self.root / "made" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder / name

    def write(self, name: str, text: str) -> Path:
        """Write a text for download."""
        path = self.place(name)
        path.write_text(text, encoding="utf-8")
        return path

    def opened(self, session: str) -> None:
        """Count a page that was opened."""
        self._open.add(session)

    def closed(self, session: str) -> None:
        """Count a page that was closed; the last one deletes all files."""
        self._open.discard(session)
        if not self._open:
            self.empty()

    def watched(self, session: str, progress: Progress) -> Progress:
        """Return a progress of a task that raises :class:`PageClosedError` once the page of the task is closed."""
        self.opened(session)  # a page whose connection was lost for a while has been counted as closed

        def told(share: float, text: str) -> None:
            if session not in self._open or self._ended:  # the page was closed, or the command ends
                raise PageClosedError("the page was closed")
            progress(share, text)

        return told

    def end(self) -> None:
        """End all tasks."""
        self._ended = True

    def empty(self) -> None:
        """Delete everything in the folder."""
        for item in self.root.iterdir():
            if item.is_dir():
                shutil.rmtree(item, ignore_errors=True)
            else:
                item.unlink(missing_ok=True)


def with_session(gr: Any, act: Callable[..., Any]) -> Callable[..., Any]:
    """Give a listener the session of the page as its first argument, by the annotation that Gradio reads."""

    def run(request: Any, *values: Any) -> Any:
        return act(request.session_hash, *values)

    run.__annotations__ = {"request": gr.Request}
    return run
