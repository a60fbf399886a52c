"""An exam of the liver in several contrast phases, as read, and registered on one lattice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32

from longilesion.case import Scan
from longilesion.diagnosis_settings import Phase
from longilesion.registration.result import Registration
from longilesion.sliding import Region


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiverExam:
    """Scans by phase, in order of time; the organ of the `reference` phase is the liver, None where that is unknown.

    `warnings` say what was not as it should be.
    """

    phases: Mapping[Phase, Scan]
    reference: Phase
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegisteredPhases:
    """Phases on a lattice of the reference (in LPS order), in the order of a model's settings; absent ones are zero.

    Beyond what a phase covers lies air. `region` is the lattice, with the liver in it. `notes` say of phases of the
    exam why they are not among the `used` ones, or what is odd about them; `registrations` are those of the used ones
    but the reference, each with the reference as its follow-up.
    """

    hu: Float32[np.ndarray, "phases z y x"]
    is_there: Bool[np.ndarray, " phases"]
    region: Region
    used: tuple[Phase, ...] = ()
    notes: Mapping[Phase, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    registrations: Mapping[Phase, Registration] = field(default_factory=dict)
