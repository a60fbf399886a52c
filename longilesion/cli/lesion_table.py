"""The lesions of a pair of scans in the terminal: a row each, with volumes, their change, and a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from longilesion.case import OutsideLesion
from longilesion.cli.terminal import LOOK_AT_IT, line_table, note
from longilesion.diagnosis_settings import TYPE_NAMES, LesionType, likeliest
from longilesion.uncertainty import volume_interval_ml
from longilesion.volume_text import volume_text

if TYPE_CHECKING:
    from longilesion.new_lesions import NewLesion
    from longilesion.pipeline import LesionOutcome

_MOST_PERCENT = 9999


def lesion_table(
    lesions: Sequence[LesionOutcome],
    candidates: Sequence[NewLesion] = (),
    types: Mapping[int, Mapping[LesionType, float]] | None = None,
) -> Table:
    """A row per lesion: its id, volumes, their change, its click, confidence and similarity, and a note.

    Candidates follow, with their score and size as the note. There is a column for the interval of the volume where the
    model's errors are known, and with `types` for the most probable one.
    """
    interval = ("95 %",) if any(outcome.uncertainty is not None for outcome in lesions) else ()
    numbers = ("lesion", "before ml", "after ml", *interval, "change", "confidence", "similarity")
    typed = () if types is None else ("type",)
    table = line_table(
        "lesion",
        "before ml",
        "after ml",
        *interval,
        "change",
        "click",
        "confidence",
        "similarity",
        *typed,
        "note",
        numbers=numbers,
    )
    for outcome in lesions:
        before = outcome.volume_baseline_ml
        table.add_row(
            str(outcome.prompt.lesion_id),
            "-" if before is None else volume_text(before),
            volume_text(outcome.volume_followup_ml),
            *(_interval(outcome) for _ in interval),
            _change(outcome),
            _click(outcome),
            f"{outcome.prompt.confidence:.2f}",
            "-" if outcome.similarity is None else f"{outcome.similarity:.2f}",
            *_type(outcome.prompt.lesion_id, types),
            note(_note(outcome)),
        )
    for lesion in candidates:
        found = lesion.candidate
        size = f"score {found.score:.2f}, {found.diameter_mm:.0f} mm across; not confirmed"
        known = str(lesion.lesion_id), "-", volume_text(found.volume_ml)
        cells = (*known, *("-" for _ in interval), "-", "candidate", "-", "-")
        table.add_row(*cells, *_type(lesion.lesion_id, types), note(size))
    return table


def _type(lesion_id: int, types: Mapping[int, Mapping[LesionType, float]] | None) -> tuple[str, ...]:
    """The cell of a lesion's type and its probability, where there is a column of types."""
    if types is None:
        return ()
    if lesion_id not in types:
        return ("-",)
    name = likeliest(types[lesion_id])
    return (f"{TYPE_NAMES[name]} {types[lesion_id][name]:.2f}",)


def _interval(outcome: LesionOutcome) -> str:
    """The ends of the volume's 95 % interval."""
    if outcome.uncertainty is None:
        return "-"
    ends = volume_interval_ml(outcome.volume_followup_ml, outcome.uncertainty.volume_factor)
    return " to ".join(map(volume_text, ends))


def _change(outcome: LesionOutcome) -> str:
    """The change of the volume in percent, where it is known: a lesion that may have been missed is not gone."""
    before, after = outcome.volume_baseline_ml, outcome.volume_followup_ml
    if isinstance(outcome.prompt, OutsideLesion) or outcome.merged_into is not None or before is None:
        return "-"
    if after == 0:
        return "-100%" if before > 0 and not (outcome.is_unsure or outcome.is_present) else "-"
    if before == 0:
        return "new"
    # Two significant digits; above -100 %, as a lesion with any voxels left is not gone.
    percent = max(float(f"{100 * (after / before - 1):.2g}"), -99.0)
    return f"{percent:+.0f}%" if percent < _MOST_PERCENT else f">+{_MOST_PERCENT}%"


def _click(outcome: LesionOutcome) -> str:
    if isinstance(outcome.prompt, OutsideLesion):
        return "outside"
    if outcome.prompt.propagated:
        return "propagated"
    return "corrected" if outcome.prompt.refined else "given"


def _note(outcome: LesionOutcome) -> str:
    """The notes that no other column shows, the warning first, as the end may be cut off."""
    # Imported here, as --help does not need it; outcomes come from this module, so it is loaded already.
    from longilesion.pipeline import remarks

    return "; ".join([*([LOOK_AT_IT] if outcome.is_unsure else []), *remarks(outcome.note)])
