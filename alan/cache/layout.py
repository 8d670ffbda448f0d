"""Layout of a feature file: its manifest, the places of its datasets, and their checks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import h5py
import numpy as np
from numpy.typing import DTypeLike

from alan._version import __version__
from alan.arrays import IntArray
from alan.errors import CacheError, damaged
from alan.rows import Place, check_name, place_of

#: Mapping from the name of a dataset to the shape and dtype of one row.
RowLayout = Mapping[str, tuple[tuple[int, ...], DTypeLike]]
#: Kinds of features that can be asked for; the sector accompanies the tokens.
FeatureKind = Literal["cls", "tokens", "logits", "maps"]
KINDS: tuple[str, ...] = get_args(FeatureKind)
#: Kinds that a parcel model computes.
PARCEL_KINDS = {"logits", "maps"}
#: Features and their dtypes.
FEATURES = {"cls": "<f4", "tokens": "<f2", "sector": "|b1", "logits": "<f2", "maps": "|u1"}
#: Global frame index and flag of each row.
TABLES: RowLayout = {"index": ((), np.int64), "done": ((), np.uint8)}
#: End of the message on a damaged row.
REMEDY = "write the cache again with `alan cache --overwrite true`"
#: Name and version of the file format; a reader refuses any other.
SCHEMA = "alan-features/3"
_FINGERPRINTS = ("backbone", "parcels", "store", "preprocessing")
#: Number of digits of a fingerprint in a message.
SHORT = 12


def n_bytes(layout: RowLayout, n_frames: int) -> int:
    """Return the number of bytes of a file with ``n_frames`` rows."""
    row = sum(int(np.prod(shape)) * np.dtype(dtype).itemsize + 4 for shape, dtype in layout.values())
    return n_frames * (row + 9) + 65536  # index and flag, and the head of the file


def places(file: Any, path: Path, *, whole: bool = True) -> dict[str, Place]:
    """Find the places of the datasets of an open HDF5 file.

    Args:
        file: The open file.
        path: Its path, for messages.
        whole: Check that each dataset lies inside the file and that the tables fit together.

    Returns:
        Mapping from name to place; the offset of an empty dataset is 0.

    Raises:
        CacheError: A dataset is missing, of another dtype, not contiguous, or claims more than the file holds.
    """
    found: dict[str, Place] = {}
    size = path.stat().st_size if whole else None
    for name, data in file.items():
        if not isinstance(data, h5py.Dataset):
            raise CacheError(f"{path}: {name} is not a dataset; write the cache again with `alan cache`")
        try:
            found[str(name)] = place_of(data, size)
        except ValueError as error:
            raise CacheError(
                f"{path}: not a whole feature cache ({error}); write it again with `alan cache`"
            ) from error
    features = [name for name in found if name in FEATURES]
    wanted = {**{name: np.dtype(kind) for name, (_, kind) in TABLES.items()}}
    wanted |= {name: np.dtype(FEATURES[name]) for name in features}
    wanted |= {check_name(name): np.dtype(np.uint32) for name in features}
    rows = {place[1][:1] for place in found.values()}
    for name, dtype in wanted.items():
        if name not in found or found[name][2] != dtype or len(rows) != 1:
            raise CacheError(
                f"{path}: not a whole feature cache ({name} is damaged); write it again with `alan cache`"
            )
    return found


def read_index(file: Any, path: Path) -> IntArray:
    """Return the global frame indices (n,) of an open HDF5 file, after :func:`places` has checked its claims."""
    places(file, path)
    index: IntArray = file["index"][:]
    return index


@dataclass(frozen=True)
class CacheManifest:
    """Origin of a cache.

    Attributes:
        backbone: Fingerprint of the locked backbone (weights and feature settings).
        parcels: Fingerprint of the parcel model, empty if there is none.
        store: Fingerprint of the frame store.
        preprocessing: Fingerprint of the preprocessing of its frames.
        features: Kinds of features, a subset of :data:`alan.cache.layout.KINDS`.
        settings: Which frames, and how they were computed; JSON-able.
        created_by: Version that wrote the cache; not compared.
    """

    backbone: str
    parcels: str
    store: str
    preprocessing: str
    features: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    created_by: str = f"alan {__version__}"

    def differences(self, other: CacheManifest) -> list[str]:
        """Describe where ``other`` differs; empty if both describe the same cache."""
        words = []
        for name in _FINGERPRINTS:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                words.append(f"{name} {short(mine)} against {short(theirs)}")
        if self.features != other.features:
            words.append(f"features {','.join(self.features)} against {','.join(other.features)}")
        for name in sorted({*self.settings, *other.settings}):
            mine, theirs = self.settings.get(name), other.settings.get(name)
            if mine != theirs:
                words.append(f"{name} {mine} against {theirs}")
        return words

    def write(self, attributes: Any) -> None:
        """Write to the attributes of an HDF5 file."""
        write_attribute(attributes, "schema", SCHEMA)
        for name, value in asdict(self).items():
            write_attribute(attributes, name, value if isinstance(value, str) else json.dumps(value))

    @classmethod
    def read(cls, attributes: Any, where: str) -> CacheManifest:
        """Read from the attributes of an HDF5 file.

        Args:
            attributes: ``h5py.File(...).attrs``.
            where: Path of the file, for the message.

        Raises:
            CacheError: The schema is another, or an attribute is missing or damaged.
        """
        schema = read_attribute(attributes, "schema") if "schema" in attributes else "none"
        if schema != SCHEMA:
            raise CacheError(
                f"{where}: schema is {schema!r}, this version reads {SCHEMA!r}; write it again with `alan cache`"
            )
        with damaged(CacheError, f"{where}: the manifest is damaged", "write it again with `alan cache`"):
            settings, features = (
                json.loads(read_attribute(attributes, name)) for name in ("settings", "features")
            )
            if not isinstance(settings, dict) or not set(features) <= set(KINDS):
                raise ValueError(f"features is {features!r}, settings {settings!r}")
            return cls(
                **{name: read_attribute(attributes, name) for name in _FINGERPRINTS},
                features=tuple(features),
                settings=settings,
                created_by=read_attribute(attributes, "created_by"),
            )


def write_attribute(attributes: Any, name: str, text: str) -> None:
    """Write an attribute of fixed length, which lies in a part of the file that HDF5 protects by a checksum."""
    attributes[name] = np.bytes_(text.encode() or b"\0")


def read_attribute(attributes: Any, name: str) -> str:
    """Read an attribute that :func:`write_attribute` wrote, or one of variable length."""
    value = attributes[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def short(fingerprint: str) -> str:
    """Shorten a fingerprint for a message; ``none`` if it is empty."""
    return fingerprint[:SHORT] or "none"
