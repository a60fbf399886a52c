"""Synthetic pairs as exams of the evaluation."""

from __future__ import annotations

from dataclasses import replace

from longilesion.evaluation.exam import Exam, FollowupClick
from longilesion.evaluation.reading import measured_baseline
from training.synthesis.pairs import SyntheticPair

REAL, INSERTED = "real tumour", "inserted"


def exam_of(name: str, pair: SyntheticPair) -> Exam:
    """The ground truth of a synthetic pair as an exam."""
    prior = pair.case.baselines["primary"]
    return Exam(
        name=name,
        truth={"primary": pair.truth},
        facts={
            lesion_id: replace(fact, lesion_type=REAL if fact.real else INSERTED)
            for lesion_id, fact in pair.facts.items()
        },
        baseline={} if prior.lesions is None else measured_baseline(prior.lesions),
        clicks={
            each.lesion_id: FollowupClick(scan="primary", point_xyz_mm=each.followup.point_xyz_mm)
            for each in pair.case.clicks
            if each.followup is not None
        },
    )
