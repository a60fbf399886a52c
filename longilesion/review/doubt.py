"""How doubtful a lesion is before anybody has looked at it: the order in which a review shows lesions."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from longilesion.case import LOW_CONFIDENCE, LesionPrompt
from longilesion.pipeline import UNLIKE, LesionOutcome

# Volumes that differ by this factor, and intervals from a volume to this multiple of it, count in full.
_LARGE_FACTOR = 8.0
# What is less than this is no reason to name.
_WORTH_NAMING = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """`score` is 0 for a lesion without any doubt, 1 or more for one to look at first; `reasons` say why."""

    score: float
    reasons: tuple[str, ...]


def doubt(outcome: LesionOutcome, presence_threshold: float) -> Doubt:
    """The doubt of a lesion, from its outcome alone.

    It is the sum of five parts of 0 to 1 each: the position (one minus the confidence of a computed click; of a lesion
    outside the scan, of that), the similarity (how far below `UNLIKE`, or in full where the pipeline has called it
    unlike), the presence (near the threshold), the change of the volume (by a factor of 8 or more in full; half for
    one that is gone or new), and the interval of the volume (a factor of 8 or more in full).
    """
    parts = {
        "place unsure": _position(outcome),
        "unlike the baseline": _similarity(outcome),
        "presence unsure": _presence(outcome.presence, presence_threshold),
        "large change": _change(outcome),
        "wide interval": _interval(outcome),
    }
    reasons = tuple(
        sorted((name for name, part in parts.items() if part >= _WORTH_NAMING), key=lambda name: -parts[name])
    )
    return Doubt(score=sum(parts.values()), reasons=reasons)


def _position(outcome: LesionOutcome) -> float:
    confidence = outcome.prompt.confidence
    unsure = 1 - confidence
    # What the table asks to look at is a reason here as well.
    return max(unsure, _WORTH_NAMING) if confidence < LOW_CONFIDENCE else unsure


def _similarity(outcome: LesionOutcome) -> float:
    if outcome.is_unlike:
        return 1.0
    if outcome.similarity is None:
        return 0.0
    return min(max(0.0, 1 - outcome.similarity / UNLIKE), 1.0)


def _presence(presence: float | None, threshold: float) -> float:
    if presence is None:
        return 0.0
    room = threshold if presence < threshold else 1 - threshold
    return 1 - abs(presence - threshold) / room if room > 0 else 1.0


def _change(outcome: LesionOutcome) -> float:
    before, after = outcome.volume_baseline_ml, outcome.volume_followup_ml
    if before is None or not isinstance(outcome.prompt, LesionPrompt) or outcome.merged_into is not None:
        return 0.0
    if not before or not after:
        return 0.5 if before or after else 0.0
    return min(abs(log(after / before)) / log(_LARGE_FACTOR), 1.0)


def _interval(outcome: LesionOutcome) -> float:
    if outcome.uncertainty is None:
        return 0.0
    return min(log(outcome.uncertainty.volume_factor) / log(_LARGE_FACTOR), 1.0)
