"""What a feature cache was made from; two caches are the same cache when their manifests agree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from alan._version import __version__
from alan.errors import CacheError

#: Name and version of the file format; a reader refuses any other.
SCHEMA = "alan-features/1"
#: What a cache may hold, besides the sector that comes with the tokens.
KINDS = ("cls", "tokens", "logits", "maps")
#: Digits of a fingerprint in a message.
SHORT = 12


@dataclass(frozen=True)
class Manifest:
    """Origin of a cache.

    Attributes:
        backbone: fingerprint of the locked backbone (weights and feature settings).
        parcels: fingerprint of the parcel model, ``""`` where none took part.
        store: fingerprint of the frame store.
        preprocessing: fingerprint of the preprocessing of its frames.
        what: the kinds of features, out of :data:`KINDS`.
        settings: which frames, and how they were computed; JSON-able.
        created_by: the version that wrote the cache; not compared.
    """

    backbone: str
    parcels: str
    store: str
    preprocessing: str
    what: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    created_by: str = f"alan {__version__}"

    def differences(self, other: Manifest) -> list[str]:
        """Say in which points ``other`` differs, in words; empty where both describe the same cache."""
        words = []
        for name in ("backbone", "parcels", "store", "preprocessing"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                words.append(f"{name} {short(mine)} against {short(theirs)}")
        if self.what != other.what:
            words.append(f"what {','.join(self.what)} against {','.join(other.what)}")
        for name in sorted({*self.settings, *other.settings}):
            mine, theirs = self.settings.get(name), other.settings.get(name)
            if mine != theirs:
                words.append(f"{name} {mine} against {theirs}")
        return words

    def write(self, attributes: Any) -> None:
        """Write into the attributes of an HDF5 file."""
        attributes["schema"] = SCHEMA
        for name, value in asdict(self).items():
            attributes[name] = value if isinstance(value, str) else json.dumps(value)

    @classmethod
    def read(cls, attributes: Any, where: str) -> Manifest:
        """Read from the attributes of an HDF5 file.

        Args:
            attributes: ``h5py.File(...).attrs``.
            where: the path, for the message.

        Raises:
            CacheError: another schema, or an attribute that is missing.
        """
        schema = attributes.get("schema", "none")
        if schema != SCHEMA:
            raise CacheError(
                f"{where}: schema is {schema!r}, this version reads {SCHEMA!r}; write it again with `alan cache`"
            )
        try:
            return cls(
                **{name: str(attributes[name]) for name in ("backbone", "parcels", "store", "preprocessing")},
                what=tuple(json.loads(attributes["what"])),
                settings=json.loads(attributes["settings"]),
                created_by=str(attributes["created_by"]),
            )
        except (KeyError, ValueError) as error:
            raise CacheError(
                f"{where}: the manifest is damaged ({error}); write it again with `alan cache`"
            ) from error


def short(fingerprint: str) -> str:
    """Shorten a fingerprint for a message; ``none`` for an empty one."""
    return fingerprint[:SHORT] or "none"
