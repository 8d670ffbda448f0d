"""Pseudonyms of patients: stable keys that distinguish patients without identifying them.

A key is a hash of the patient's identifier and of a secret. Without the secret it cannot be traced back, not even
by trying all patient numbers of a hospital. The secret is created once for each user and never leaves the
machine; set the environment variable ``ALAN_PSEUDONYM_SECRET`` to share it between machines.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import os
import secrets
import warnings
from pathlib import Path
from unicodedata import normalize

from alan.errors import AlanWarning

#: Environment variable that holds the secret; without it the secret is in the user's configuration folder.
SECRET = "ALAN_PSEUDONYM_SECRET"


def patient_key(*identifiers: object) -> str:
    """Make the pseudonym of a patient.

    Args:
        identifiers: Identifiers of the patient, the best first, such as the PatientID and the name of a DICOM
            header; the first one that is not empty is used. Surrounding spaces and the form of
            Unicode (NFC or NFD) are ignored.

    Returns:
        ``p`` and 16 hexadecimal digits, or ``""`` if all identifiers are empty.
    """
    texts = (normalize("NFC", " ".join(str(identifier or "").split())) for identifier in identifiers)
    text = next(filter(None, texts), "")
    return f"p{hmac.new(_secret(), os.fsencode(text), hashlib.sha256).hexdigest()[:16]}" if text else ""


def uid_key(uid: str) -> str:
    """Make the pseudonym of a DICOM UID, with the same secret: the same UID always gives the same pseudonym.

    Args:
        uid: The UID.

    Returns:
        A valid UID, ``2.25.`` and a number of 128 bits.
    """
    return f"2.25.{int(hmac.new(_secret(), uid.strip().encode(), hashlib.sha256).hexdigest()[:32], 16)}"


def _secret() -> bytes:
    given = os.environ.get(SECRET)
    if given:
        return given.encode()
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return _stored_secret(Path(base).expanduser() / "alan" / "pseudonym-secret")


@functools.cache
def _stored_secret(path: Path) -> bytes:
    """Read the secret of this user; create it when it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}.part")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(new, path)  # two processes may create it at once: the first one wins
        except FileExistsError:
            pass
        finally:
            new.unlink()
        secret = path.read_bytes()
        if not secret.strip():
            raise OSError("it is empty")
        return secret
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"{path}: cannot be read or created ({error}), so the keys of patients differ from run to run: "
            f"set {SECRET} to a secret text",
            AlanWarning,
            stacklevel=4,
        )
        return secrets.token_bytes(32)
