"""Manifest of a feature cache: its inputs and settings. Two caches are equal if their manifests agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from alan._version import __version__
from alan.cache.layout import KINDS
from alan.errors import CacheError, damaged

#: Name and version of the file format; a reader refuses any other.
SCHEMA = "alan-features/3"
_FINGERPRINTS = ("backbone", "parcels", "store", "preprocessing")
#: Number of digits of a fingerprint in a message.
SHORT = 12


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
