"""Atomic writes, fingerprints of content, and text without passwords."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alan.errors import SHORTAGE, AlanError, DataError

if TYPE_CHECKING:
    import pandas as pd
    import torch


#: Ends of the names of HDF5 files, by which frame stores are recognised.
HDF5 = (".h5", ".hdf5")
#: Folders that Synology, macOS and Windows make for thumbnails, metadata and deleted files.
_SYSTEM = ("@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information")
#: Passwords in the URL of a database, in its query or in its keywords.
_PASSWORDS = (
    (re.compile(r"([A-Za-z][\w+.-]*://[^\s/:@\"]*:)[^\s\"]*@"), r"\1***@"),
    (re.compile(r"((?:password|passwd|pwd)=)[^\s&;'\"]+", re.IGNORECASE), r"\1***"),
)


def redact(text: str) -> str:
    """Replace the passwords of database URLs by ``***``; every text that is stored or shown passes here."""
    for pattern, masked in _PASSWORDS:
        text = pattern.sub(masked, text)
    return text


@contextlib.contextmanager
def naming_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of a full disk, a quota or a limit of file sizes in the block into one that names a path.

    Args:
        path: The path that the error names.

    Raises:
        OSError: ENOSPC, EDQUOT or EFBIG, by the number or the message of what was raised.
    """
    try:
        yield
    except Exception as error:  # safetensors, HDF5 and others raise errors of their own
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), os.fspath(path)) from error
        raise


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it if the block succeeds, delete it otherwise.

    The content is flushed to the disk before the file is renamed, so that a power failure leaves no empty file.

    Args:
        path: The file to be written; its folder is created.

    Yields:
        The temporary path to write to.

    Raises:
        OSError: See :func:`naming_full_disk`.
    """
    target = Path(path)
    name = target.name if len(os.fsencode(target.name)) < 230 else fingerprint(target.name)
    temporary = target.with_name(f".{name}.{os.getpid()}.part")
    try:
        with naming_full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
            mode = temporary.stat().st_mode  # as the umask asks; some libraries let only the owner read
            yield temporary
            temporary.chmod(mode)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)  # noqa: PTH105 (documented as atomic)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a binary file atomically.

    Args:
        path: The file.
        content: Its content.
    """
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def write_rows(path: str | os.PathLike[str], header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as a CSV file, atomically.

    Args:
        path: The file.
        header: Names of the columns.
        rows: Values of the cells, in the order of the columns.
    """
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_table(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as a CSV file without its index, atomically; numbers have six digits.

    Args:
        path: The file.
        table: The table.
    """
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically, keys in the given order, two spaces of indent; passwords of URLs are replaced."""
    write_text(path, redact(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=True)) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON in UTF-8, UTF-16 or UTF-32, with or without byte order mark.

    Raises:
        DataError: The file is missing or is not JSON, or an object in it has a duplicate key.
    """
    try:
        return parse_json(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON and refuse duplicate keys, of which Python would keep the last.

    Raises:
        ValueError: It is not JSON, or an object has a duplicate key.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_unique([key for key, _ in pairs])
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def parse_yaml(text: str) -> Any:
    """Parse YAML of plain values and refuse duplicate keys, of which PyYAML would keep the last.

    Raises:
        yaml.YAMLError: It is not YAML.
        ValueError: A mapping has a duplicate key.
    """
    import yaml  # not needed by most verbs

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            check_yaml_keys(node)
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)


def check_yaml_keys(node: Any) -> None:
    """Refuse a mapping node of YAML with two equal keys; merged mappings may repeat them.

    Raises:
        ValueError: A key occurs twice.
    """
    _check_unique([key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"])


def _check_unique(keys: list[Any]) -> None:
    if len(set(map(str, keys))) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs twice: keep one")


def read_entry(
    path: str | os.PathLike[str], schema: str, remedy: str, kind: type[AlanError] = DataError
) -> dict[str, Any]:
    """Read a JSON file that states its schema.

    Args:
        path: The file.
        schema: Name and version of the required schema.
        remedy: End of the message if the file has another schema.
        kind: Class of that error.

    Raises:
        DataError: The file is missing or not JSON.
        AlanError: An error of ``kind``: the file has another schema.
    """
    return check_schema(read_json(path), schema, f"{path}: ", remedy, kind)


def check_schema(entry: Any, schema: str, where: str, remedy: str, kind: type[AlanError]) -> dict[str, Any]:
    """Return parsed JSON if it is an object that states a schema.

    Args:
        entry: What was parsed.
        schema: Name and version of the required schema.
        where: Beginning of the message.
        remedy: End of the message.
        kind: Class of the error.

    Raises:
        AlanError: An error of ``kind``: it has another schema, or none.
    """
    if not isinstance(entry, dict) or entry.get("schema") != schema:
        found = entry.get("schema") if isinstance(entry, dict) else None
        raise kind(f"{where}schema is {found!r} where {schema!r} is expected: {remedy}")
    return entry


def fingerprint(value: Any) -> str:
    """Compute the SHA-256 (hex) of a JSON-able value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digest(path: str | os.PathLike[str]) -> str:
    """Compute the SHA-256 (hex) of the bytes of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_if_readable(path: str | os.PathLike[str]) -> str:
    """Compute the SHA-256 (hex) of the bytes of a file; empty if it cannot be read, which its reader reports."""
    try:
        return digest(path)
    except OSError as error:
        if error.errno in SHORTAGE:
            raise
        return ""


def fingerprint_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Compute the SHA-256 (hex) of named tensors: names, dtypes, shapes and bytes, independent of their order."""
    import torch  # slow to import

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def files_below(root: str | os.PathLike[str]) -> list[Path]:
    """List the files of a folder and of all folders in it, linked folders included, in the order of their names.

    Hidden files and folders (names that begin with a dot) and the folders of thumbnails and deleted files that
    operating systems make (``@eaDir``, ``__MACOSX``, ``$RECYCLE.BIN``) are left out. A folder that several links
    lead to is entered once, so that a link to a parent folder causes no endless search.

    Args:
        root: The folder.

    Returns:
        Paths that begin with ``root``, sorted.
    """
    return sorted(path for path in _walk(root) if path.is_file())


def unreachable_below(root: str | os.PathLike[str]) -> list[tuple[Path, str]]:
    """List what :func:`files_below` cannot reach in a folder, with the reason and the remedy.

    Args:
        root: The folder.

    Returns:
        Links to files that are missing, pipes, sockets and devices, and folders that may not be read; paths begin
        with ``root``, sorted.
    """
    lost = "a link to a file that is missing: get the file (`git annex get`), or remove the link"
    special = "a pipe, a socket or a device, not a file: copy what it gives into a file"
    locked: list[OSError] = []
    paths = _walk(root, locked.append)
    odd = [path for path in paths if not path.is_file() and os.path.lexists(path)]
    found = [(path, special if path.exists() else lost) for path in odd]
    folders = [(Path(error.filename), "a folder that cannot be read: change its permissions") for error in locked]
    return sorted(found + folders)


def _walk(root: str | os.PathLike[str], onerror: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield everything that is not a folder, in a folder and all folders in it; see :func:`files_below`."""
    entered: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, onerror=onerror, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SYSTEM)
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def short_name(name: str, longest: int = 200) -> str:
    """Shorten a name that a file system would refuse.

    Args:
        name: The name, without a number or suffix that is appended to it later.
        longest: Longest name in bytes that stays unchanged; file systems accept 255.

    Returns:
        The name itself, or its beginning, ``~`` and twelve digits of its SHA-256, so that names stay distinct.
    """
    encoded = os.fsencode(name)
    if len(encoded) <= longest:
        return name
    tail = f"~{hashlib.sha256(encoded).hexdigest()[:12]}"
    return encoded[: longest - len(tail)].decode("utf-8", errors="ignore") + tail
