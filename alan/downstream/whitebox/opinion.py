"""Opinions of an expert on parcels, which become Beta priors beside the counts on simulated frames."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np

from alan.downstream.whitebox.jsonfile import JsonModel, parsing
from alan.downstream.whitebox.prior import EffectivePixels
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import ParameterError, nearest
from alan.files import check_schema

SCHEMA = "alan-expert-opinion/1"
#: Weight of "inside" and "never" in effective pixels: as much as the labels of about ten patients.
SURE = 100.0
#: Weight of a share without a strength, in effective pixels: as much as the counts on simulated frames.
STRENGTH = 8.0
#: Words for a share and its weight.
WORDS = {"inside": (1.0, SURE), "never": (0.0, SURE), "unknown": (0.5, 0.0)}


#: Phases that may have a list of their own.
LIST_PHASES = ("ED", "ES")


class Opinion(NamedTuple):
    """Opinion on one parcel: ``strength`` effective pixels, of which ``share`` lie in the structure.

    Attributes:
        share: Share of the parcel in the structure, 0 to 1.
        strength: Weight in effective pixels, at least 0.
        word: ``inside``, ``never`` or ``unknown``; empty if the expert gave a share.
    """

    share: float
    strength: float
    word: str = ""

    @classmethod
    def of(cls, opinion: str | float, strength: float | None = None) -> Self:
        """Make an opinion from a word of :data:`WORDS` or from a share.

        Args:
            opinion: ``inside``, ``never``, ``unknown``, or a share from 0 to 1.
            strength: Weight in effective pixels; None uses 100 for ``inside`` and ``never`` and 8 for a share.

        Raises:
            ParameterError: Another word, a share out of bounds, or a strength that is negative or belongs to
                ``unknown``.
        """
        word = ""
        if isinstance(opinion, str):
            if opinion not in WORDS:
                raise ParameterError(
                    f"opinion is {opinion!r}: {nearest(opinion, WORDS)}, or give a share from 0 to 1"
                )
            word, (share, usual) = opinion, WORDS[opinion]
        else:
            share, usual = _number("opinion", opinion, 1.0), STRENGTH
        if strength is None:
            return cls(share, usual, word)
        if word == "unknown":
            raise ParameterError(f"strength is {strength!r}, but the opinion is 'unknown': leave the strength out")
        return cls(share, _number("strength", strength, math.inf), word)

    def to_dict(self) -> dict[str, Any]:
        """Return the opinion as plain values; the strength is left out where it is the usual one."""
        usual = WORDS[self.word][1] if self.word else STRENGTH
        given = {} if self.strength == usual else {"strength": self.strength}
        return {"opinion": self.word or self.share, **given}


@dataclass(frozen=True, eq=False)
class ExpertOpinion(JsonModel):
    """Opinions of an expert on the parcels of one structure.

    Attributes:
        structure: Name of the structure.
        provenance: Fingerprint of the parcel model whose ids are meant.
        parcels: Mapping from the id of a parcel to the opinion on it; parcels that are not listed are unknown.
        phase: ``ED`` or ``ES`` if the opinion is about the list of that phase; empty for all lists.
        steps: Parameters of :class:`alan.downstream.PostProcessing` that the expert changed, for all lists of the
            structure; the others are those of the white box.
    """

    structure: str
    provenance: str
    parcels: Mapping[int, Opinion]
    phase: str = ""
    steps: Mapping[str, Any] = field(default_factory=dict)

    def pixels(self, n_parcels: int, background_id: int | None = None) -> EffectivePixels:
        """Compute the effective pixels inside and outside the structure that the opinions are worth.

        Args:
            n_parcels: Number of parcels K.
            background_id: Id that is not a parcel.

        Returns:
            (K,) inside and (K,) outside: strength x share and strength x (1 - share).

        Raises:
            ParameterError: An opinion is on a parcel that does not exist.
        """
        inside, outside = np.zeros(n_parcels), np.zeros(n_parcels)
        for parcel, opinion in self.parcels.items():
            if not 0 <= parcel < n_parcels or parcel == background_id:
                besides = "" if background_id is None else f", not {background_id} (background)"
                raise ParameterError(
                    f"the opinion on {self.structure} is about parcel {parcel}: give ids from 0 to "
                    f"{n_parcels - 1}{besides}"
                )
            inside[parcel] = opinion.strength * opinion.share
            outside[parcel] = opinion.strength * (1 - opinion.share)
        return EffectivePixels(inside, outside)

    def check_model(self, fingerprint: str) -> None:
        """Check that the ids are those of a parcel model.

        Args:
            fingerprint: Fingerprint of the model; empty if it is unknown.

        Raises:
            ParameterError: The opinions are about another model.
        """
        if fingerprint and self.provenance != fingerprint:
            raise ParameterError(
                f"the opinion on {self.structure} is about parcels {self.provenance[:12] or '(none)'}, the model "
                f"has {fingerprint[:12]}: give an opinion on the same parcel model"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the opinions as plain values, for JSON."""
        return {
            "schema": SCHEMA,
            "structure": self.structure,
            **({"phase": self.phase} if self.phase else {}),
            "provenance": self.provenance,
            **({"steps": dict(self.steps)} if self.steps else {}),
            "parcels": [{"id": k, **opinion.to_dict()} for k, opinion in sorted(self.parcels.items())],
        }

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Build from the result of :meth:`to_dict`.

        Raises:
            ParameterError: Another schema, a missing field, another phase or post-processing step, two opinions on
                one parcel, or an invalid opinion.
        """
        remedy = "give a file of opinions, such as those that `alan ui` saves"
        value = check_schema(value, SCHEMA, "", remedy, ParameterError)
        parcels: dict[int, Opinion] = {}
        with parsing("expert opinion"):
            structure, provenance = str(value["structure"]), str(value["provenance"])
            if (phase := value.get("phase", "")) not in ("", *LIST_PHASES):
                raise ParameterError(f"phase is {phase!r}: give {' or '.join(LIST_PHASES)}, or leave it out")
            steps = dict(value.get("steps", {}))
            PostProcessing().with_params(steps)
            for row in value["parcels"]:
                parcel = row["id"]
                if type(parcel) is not int or parcel < 0:
                    raise ParameterError(f"id is {parcel!r}: give the id of a parcel, a whole number from 0")
                if parcel in parcels:
                    raise ParameterError(f"there are two opinions on parcel {parcel}: keep one")
                if unknown := sorted(set(row) - {"id", "opinion", "strength"}):
                    raise ParameterError(f"parcel {parcel} has {unknown[0]!r}: give id, opinion and strength")
                try:
                    parcels[parcel] = Opinion.of(row["opinion"], row.get("strength"))
                except ParameterError as error:
                    raise ParameterError(f"parcel {parcel}: {error}") from error
        return cls(structure, provenance, parcels, phase, steps)


def read_opinion(opinion: ExpertOpinion | str | os.PathLike[str] | None, provenance: str) -> ExpertOpinion | None:
    """Read an opinion if it is a path, and check that it is about a parcel model, see :func:`read_opinions`."""
    if opinion is not None and not isinstance(opinion, ExpertOpinion):
        opinion = ExpertOpinion.from_json(opinion)
    if opinion is not None:
        opinion.check_model(provenance)
    return opinion


def read_opinions(
    files: Sequence[str | os.PathLike[str]], structures: Sequence[str], fingerprint: str
) -> dict[str, ExpertOpinion]:
    """Read opinions on the structures of one parcel model, each of which has one list.

    Args:
        files: Files of opinions, one per structure; the file names it.
        structures: Structures on which there may be an opinion.
        fingerprint: Fingerprint of the parcel model.

    Returns:
        Mapping from structure to its opinion.

    Raises:
        DataError: A file is missing or is not JSON.
        ParameterError: A file is not an opinion, is about another parcel model or structure or about one phase, or
            is the second one.
    """
    found = {}
    for (structure, phase), opinion in read_phase_opinions(files, structures, fingerprint).items():
        if phase:
            raise ParameterError(
                f"an opinion is about {structure} at {phase}, but its list serves all phases: give it to "
                "`alan analyze`, whose model has a list for each phase"
            )
        found[structure] = opinion
    return found


def read_phase_opinions(
    files: Sequence[str | os.PathLike[str]], structures: Collection[str], fingerprint: str
) -> dict[tuple[str, str], ExpertOpinion]:
    """Read opinions on structures that may have a list for each phase.

    Args:
        files: Files of opinions, one per structure and phase.
        structures: Structures on which there may be an opinion.
        fingerprint: Fingerprint of the parcel model.

    Returns:
        Mapping from structure and phase (empty for all lists) to the opinion; those on all lists come first.

    Raises:
        DataError: A file is missing or is not JSON.
        ParameterError: A file is not an opinion, is about another parcel model or structure, is the second one, or
            sets other post-processing steps for its structure than another file.
    """
    found: dict[tuple[str, str], ExpertOpinion] = {}
    for file in files:
        try:
            opinion = ExpertOpinion.from_json(file)
            opinion.check_model(fingerprint)
            if opinion.structure not in structures:
                raise ParameterError(f"structure is {opinion.structure!r}: give one of {', '.join(structures)}")
            about = (opinion.structure, opinion.phase)
            if about in found:
                kind = "structure and phase" if opinion.phase else "structure"
                raise ParameterError(
                    f"a second opinion on {' '.join(filter(None, about))!r}: give one file per {kind}"
                )
            others = [one.steps for one in found.values() if one.structure == about[0] and one.steps]
            if opinion.steps and any(steps != opinion.steps for steps in others):
                raise ParameterError(
                    f"steps are {opinion.steps}, in another opinion {others[0]}: give both the same"
                )
        except ParameterError as error:
            raise ParameterError(f"{os.fspath(file)}: {error}") from error
        found[about] = opinion
    return dict(sorted(found.items(), key=lambda item: bool(item[0][1])))


def _number(name: str, value: Any, high: float) -> float:
    """Check that a value is a finite number from 0 to ``high``."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= high
        or value == math.inf
    ):
        bounds = "at least 0" if high == math.inf else f"from 0 to {high:g}"
        raise ParameterError(f"{name} is {value!r}: give a number {bounds}")
    return float(value)
