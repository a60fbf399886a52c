"""The order in which a review shows lesions: the doubtful ones first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.case import LesionPrompt, OutsideLesion
from longilesion.pipeline import LesionOutcome
from longilesion.review.doubt import doubt
from longilesion.uncertainty import Uncertainty
from test.unit.builders import click, prompt

SURE = LesionOutcome(
    prompt=prompt(1, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    place_xyz_mm=(0.0, 0.0, 0.0),
    presence=1.0,
    probability=0.9,
    volume_baseline_ml=2.0,
    volume_followup_ml=2.0,
    note="",
    similarity=0.9,
    uncertainty=Uncertainty(volume_factor=1.0, diameter_mm=1.0),
)


def propagated(confidence: float) -> LesionOutcome:
    assert isinstance(SURE.prompt, LesionPrompt)
    return replace(SURE, prompt=replace(SURE.prompt, propagated=True, confidence=confidence))


def test_lesion_that_nothing_speaks_against_has_no_doubt() -> None:
    assert doubt(SURE, 0.5).score == 0
    assert doubt(SURE, 0.5).reasons == ()


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (propagated(0.55), "place unsure"),
        (propagated(0.1), "place unsure"),
        (replace(SURE, similarity=0.1), "unlike the baseline"),
        (replace(SURE, similarity=0.39, is_unlike=True), "unlike the baseline"),
        (replace(SURE, presence=0.45), "presence unsure"),
        (replace(SURE, presence=0.55), "presence unsure"),
        (replace(SURE, volume_followup_ml=8.0), "large change"),
        (replace(SURE, volume_followup_ml=0.5), "large change"),
        (replace(SURE, volume_followup_ml=0.0), "large change"),
        (replace(SURE, volume_baseline_ml=0.0), "large change"),
        (replace(SURE, uncertainty=Uncertainty(volume_factor=4.0, diameter_mm=9.0)), "wide interval"),
    ],
)
def test_each_doubt_is_named_and_comes_before_none(outcome: LesionOutcome, reason: str) -> None:
    found = doubt(outcome, 0.5)
    assert found.reasons == (reason,)
    assert found.score > doubt(SURE, 0.5).score


def test_the_greatest_reason_comes_first() -> None:
    outcome = replace(propagated(0.0), volume_followup_ml=6.0, presence=0.5)
    assert doubt(outcome, 0.5).reasons == ("place unsure", "presence unsure", "large change")


def test_lesion_outside_the_scan_is_as_doubtful_as_that_is_unsure() -> None:
    known = OutsideLesion(lesion_id=1, baseline=click((0.0, 0.0, 0.0)), confidence=0.9)
    outside = replace(SURE, prompt=known, presence=None, volume_followup_ml=0.0, similarity=None, uncertainty=None)
    assert doubt(outside, 0.5).score == pytest.approx(0.1)
    assert doubt(replace(outside, prompt=replace(known, confidence=0.3)), 0.5).reasons == ("place unsure",)


share = st.floats(0, 1)


@given(share, share, st.floats(-1, 1), share, st.floats(0, 1000), st.floats(0, 1000), st.floats(1, 100))
def test_doubt_is_bounded_and_falls_with_confidence_and_similarity(
    confidence: float, less: float, similarity: float, presence: float, before: float, after: float, factor: float
) -> None:
    outcome = replace(
        propagated(confidence),
        similarity=similarity,
        presence=presence,
        volume_baseline_ml=before,
        volume_followup_ml=after,
        uncertainty=Uncertainty(volume_factor=factor, diameter_mm=1.0),
    )
    score = doubt(outcome, 0.416).score
    assert 0 <= score <= 5
    assert isinstance(outcome.prompt, LesionPrompt)
    worse = replace(outcome, prompt=replace(outcome.prompt, confidence=confidence * less))
    assert doubt(worse, 0.416).score >= score
    assert doubt(replace(outcome, similarity=similarity - less), 0.416).score >= score
