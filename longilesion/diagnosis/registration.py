"""Registration of an exam's phases to its reference, on the lattice over the liver that a network is slid over."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from longilesion.case import Scan
from longilesion.diagnosis.exam import LiverExam, RegisteredPhases
from longilesion.diagnosis.phases import PHASE_NAMES
from longilesion.diagnosis_settings import DiagnosisSettings, Phase
from longilesion.errors import InputError
from longilesion.registered import sample_moved
from longilesion.registration.propagation import trust_in
from longilesion.registration.reduction import reduce_scan
from longilesion.registration.register import SPACING_MM, register_scans
from longilesion.registration.result import Registration
from longilesion.sliding import Region, region_of
from longilesion.voi import sample_shown

# A registration that is more likely wrong than right, or leaves bodies that are hardly alike, shows another patient or
# another part of the body. Of phases that are minutes apart, the similarity is about 0.9.
_LEAST_TRUST = 0.5
_LEAST_SIMILARITY = 0.6
# A phase that shows less of the liver than this share is left out.
_LEAST_COVERAGE = 0.5
# From this share on, the liver is covered but for what resampling costs at the border.
_WHOLE = 0.99

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sampled:
    """A phase on the lattice, None where it is left out, with a note in either case; the reference needs no motion."""

    hu: Float32[np.ndarray, "z y x"] | None
    note: str
    registration: Registration | None = None


def register_phases(exam: LiverExam, settings: DiagnosisSettings) -> RegisteredPhases:
    """Samples all phases that the settings name on a lattice of the reference, around the liver or else the body.

    A phase is left out, with a note and a warning, where it cannot be registered to the reference, or covers less than
    half of the liver. Raises InputError where no phase is left.
    """
    region = _region(exam.phases[exam.reference], settings)
    phases = {
        phase: _sampled(exam, phase, region) if phase in settings.phases else _unknown(phase, settings)
        for phase in exam.phases
    }
    used = {phase: sampled.hu for phase, sampled in phases.items() if sampled.hu is not None}
    notes = {phase: sampled.note for phase, sampled in phases.items() if sampled.note}
    if not used:
        reasons = "; ".join(f"{PHASE_NAMES[phase]}: {note}" for phase, note in notes.items())
        raise InputError(f"no phase can be used ({reasons}); expected one of {', '.join(settings.phases)}")
    warnings = [
        f"the {PHASE_NAMES[phase]} phase {'is used, but' if phase in used else 'is left out:'} {note}"
        for phase, note in notes.items()
    ]
    missing = [phase for phase in settings.phases if phase not in used]
    if missing and settings.network.fusion == "concatenation":
        warnings.append(f"the network has always seen all of its phases; without {', '.join(missing)} it may be wrong")
    for warning in warnings:
        _log.warning("%s", warning)
    empty = np.zeros(region.grid.shape_zyx, np.float32)
    return RegisteredPhases(
        hu=np.stack([used.get(phase, empty) for phase in settings.phases]),
        is_there=np.array([phase in used for phase in settings.phases]),
        region=region,
        used=tuple(used),
        notes=notes,
        warnings=tuple(warnings),
        registrations={
            phase: sampled.registration for phase, sampled in phases.items() if sampled.registration is not None
        },
    )


def _region(reference: Scan, settings: DiagnosisSettings) -> Region:
    if reference.organ is not None:
        source, grid = reference.grid.lps_view(reference.organ)
    else:
        reduced = reduce_scan(reference, SPACING_MM)
        source, grid = reduced.body, reduced.grid
    region = region_of(source, grid, settings)
    if region is None or not region.mask.any():
        raise InputError("the mask of the liver is empty; expected a liver in the scan")
    return region


def _unknown(phase: Phase, settings: DiagnosisSettings) -> _Sampled:
    return _Sampled(hu=None, note=f"the model does not take it; it takes {', '.join(settings.phases)}")


def _sampled(exam: LiverExam, phase: Phase, region: Region) -> _Sampled:
    scan, reference = exam.phases[phase], exam.phases[exam.reference]
    if phase == exam.reference:
        hu, shown = sample_shown(scan, region.grid)
        share = _share(shown, region)
        return _Sampled(hu=hu, note=_coverage_note(share, exam) if share < _WHOLE else "")
    registration = register_scans(scan, reference)
    if not _is_of_one_patient(registration, scan, reference):
        name = PHASE_NAMES[exam.reference]
        return _Sampled(
            hu=None, note=f"it cannot be registered to the {name} one; another patient, or part of the body?"
        )
    moved = sample_moved(scan, registration, region.grid)
    share = 0.0 if moved is None else _share(moved[1], region)
    if moved is None or share < _LEAST_COVERAGE:
        return _Sampled(hu=None, note=_coverage_note(share, exam))
    note = _coverage_note(share, exam) if share < _WHOLE else ""
    return _Sampled(hu=moved[0], note=note, registration=registration)


def _is_of_one_patient(registration: Registration, scan: Scan, reference: Scan) -> bool:
    # In this order: the control points take longest.
    return (
        registration.stage != "body centres"
        and registration.overall_similarity >= _LEAST_SIMILARITY
        and trust_in(registration, scan, reference) >= _LEAST_TRUST
    )


def _share(shown: Bool[np.ndarray, "z y x"], region: Region) -> float:
    """The share of the region that a phase shows."""
    return float(shown[region.mask].mean())


def _coverage_note(share: float, exam: LiverExam) -> str:
    what = "body" if exam.phases[exam.reference].organ is None else "liver"
    return f"it shows {share:.0%} of the {what}"
