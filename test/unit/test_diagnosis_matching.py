"""The assignment of lesions to queries, against all permutations and costs worked out one by one."""

from __future__ import annotations

import logging
import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.diagnosis import matching
from training.diagnosis.matching import assigned, matching_cost
from training.diagnosis.settings import DiagnosisLossSettings


@given(queries=st.integers(1, 5), lesions=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_assignment_costs_no_more_than_any_other(queries: int, lesions: int, seed: int) -> None:
    cost = torch.randn(queries, lesions, generator=torch.Generator().manual_seed(seed))
    rows, columns = assigned(cost)
    pairs = min(queries, lesions)
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == len(rows) == pairs
    wide = cost if lesions >= queries else cost.T
    best = min(
        sum(float(wide[row, column]) for row, column in enumerate(chosen))
        for chosen in permutations(range(wide.shape[1]), pairs)
    )
    assert float(cost[rows, columns].sum()) == pytest.approx(best, abs=1e-5)


def test_costs_are_those_of_each_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    settings = DiagnosisLossSettings(mask=3.0, classification=2.0)
    class_logits, mask_logits = torch.randn(3, 4, generator=generator), 3 * torch.randn(3, 6, generator=generator)
    classes, masks = torch.tensor([2, 1]), torch.rand(2, 6, generator=generator) < 0.5
    cost = matching_cost(class_logits, mask_logits, classes, masks, settings)
    for query in range(3):
        probability = [1 / (1 + math.exp(-logit)) for logit in mask_logits[query].tolist()]
        exponentials = [math.exp(logit) for logit in class_logits[query].tolist()]
        for lesion in range(2):
            truth = masks[lesion].tolist()
            entropy = sum(-math.log(p if t else 1 - p) for p, t in zip(probability, truth, strict=True)) / 6
            overlap = sum(p for p, t in zip(probability, truth, strict=True) if t)
            dice = 1 - (2 * overlap + 1) / (sum(probability) + sum(truth) + 1)
            named = exponentials[int(classes[lesion])] / sum(exponentials)
            assert float(cost[query, lesion]) == pytest.approx(3 * (entropy + dice) - 2 * named, rel=1e-4)


def test_more_lesions_than_queries_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    matching._note_unmatched.cache_clear()
    with caplog.at_level(logging.WARNING, logger="training"):
        for _ in range(3):
            rows, columns = assigned(torch.tensor([[5.0, 1.0, 3.0], [1.0, 2.0, 9.0]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])
    assert caplog.text.count("more lesions than the network's 2 queries") == 1


def test_costs_that_are_no_numbers_do_not_end_the_training() -> None:
    rows, _ = assigned(torch.full((3, 2), float("nan")))
    assert len(rows) == 2
