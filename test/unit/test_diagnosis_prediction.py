"""From registered phases to lesions with types: merged windows, LiverMax, components, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longilesion.components import lesion_voxels
from longilesion.diagnosis.findings import Diagnosis
from longilesion.diagnosis.instances import merged_queries
from longilesion.diagnosis.prediction import liver_max, predict_phases
from longilesion.diagnosis.windows import FoundQuery
from longilesion.errors import BundleError
from longilesion.geometry import box_slices
from longilesion.networks.lesion_queries import PhaseInput, QueryOutput, QueryPrediction
from test.unit.diagnosis_builders import diagnosis_settings, model_of, phases_of, query_settings

TYPES = diagnosis_settings().types
SURE = 12.0
# Values of voxels by which the stub networks recognise lesions, and their classes.
HCC, CYST = 80.0, 40.0
CLASSES = {HCC: 1, CYST: 7}


def _marks(batch: PhaseInput) -> dict[float, torch.Tensor]:
    venous = batch.phases[0, 2, 0]
    return {value: (venous - value / 100).abs() < 0.05 for value in CLASSES}


def _semantic(batch: PhaseInput) -> torch.Tensor:
    logits = torch.zeros((1, 1 + len(TYPES), *batch.phases.shape[3:]))
    marks = _marks(batch)
    logits[:, 0] = SURE
    for value, mask in marks.items():
        logits[0, 0][mask] = 0
        logits[0, CLASSES[value]][mask] = SURE
    return logits


def by_voxels(batch: PhaseInput) -> QueryOutput:
    """A network without queries."""
    return QueryOutput(semantic_logits=_semantic(batch))


def by_queries(batch: PhaseInput) -> QueryOutput:
    """A query for each of both kinds of lesions, one that repeats the first, and one that finds nothing."""
    marks = _marks(batch)
    chosen = (HCC, CYST, HCC, None)
    classes = torch.zeros((1, len(chosen), 1 + len(TYPES)))
    masks = torch.full((1, len(chosen), *batch.phases.shape[3:]), -SURE)
    for query, value in enumerate(chosen):
        if value is None or not marks[value].any():
            classes[0, query, 0] = SURE
            continue
        classes[0, query, CLASSES[value]] = SURE
        masks[0, query][marks[value]] = SURE
    layer = QueryPrediction(class_logits=classes, mask_logits=masks)
    return QueryOutput(semantic_logits=_semantic(batch), layers=(layer,))


def _diagnosed(venous: np.ndarray, *, queries: bool, liver: np.ndarray | None = None, **settings: object) -> Diagnosis:
    network = query_settings(queries=4 if queries else 0)
    model = model_of(diagnosis_settings(network=network, **settings), by_queries if queries else by_voxels)
    return predict_phases(phases_of([None, None, venous, None], liver), model)


@pytest.mark.parametrize("queries", [True, False])
def test_a_lesion_over_two_windows_is_one(queries: bool):
    venous = np.zeros((8, 8, 20))
    # Windows of 8 start at 0, 4, 8 and 12: none sees all of it.
    venous[2:6, 2:6, 3:15] = HCC
    found = _diagnosed(venous, queries=queries)
    (lesion,) = found.typed
    np.testing.assert_array_equal(found.lesions.ids, (venous == HCC).astype(np.uint16))
    assert (lesion.lesion_id, lesion.type) == (1, "hcc")
    assert lesion.volume_ml == pytest.approx(4 * 4 * 12 * 8 / 1000)
    assert lesion.score > 0.99
    assert sum(lesion.probabilities.values()) == pytest.approx(1)
    assert found.by_volume == {**dict.fromkeys(TYPES, 0.0), "hcc": 1.0}


@pytest.mark.parametrize("queries", [True, False])
def test_two_lesions_remain_two(queries: bool):
    venous = np.zeros((8, 8, 20))
    venous[2:5, 2:5, 2:6] = HCC
    venous[2:5, 2:5, 8:10] = CYST
    found = _diagnosed(venous, queries=queries)
    assert {lesion.type: round(1000 * lesion.volume_ml) for lesion in found.typed} == {"hcc": 288, "cyst": 144}
    assert found.by_volume["hcc"] == pytest.approx(2 / 3)
    assert found.by_volume["cyst"] == pytest.approx(1 / 3)
    types = {lesion.lesion_id: lesion.type for lesion in found.typed}
    assert {types[number] for number in np.unique(found.lesions.ids[venous == CYST])} == {"cyst"}


def test_touching_lesions_are_told_apart_by_queries():
    venous = np.zeros((8, 8, 12))
    venous[2:5, 2:5, 2:5] = HCC
    venous[2:5, 2:5, 5:8] = CYST
    assert {lesion.type for lesion in _diagnosed(venous, queries=True).typed} == {"hcc", "cyst"}


@pytest.mark.parametrize("queries", [True, False])
def test_what_lies_outside_the_liver_is_no_lesion(queries: bool):
    venous = np.zeros((8, 8, 12))
    venous[2:5, 2:5, 2:5] = HCC
    venous[2:5, 2:5, 7:11] = CYST
    liver = np.zeros(venous.shape, np.bool_)
    liver[:, :, :9] = True
    found = _diagnosed(venous, queries=queries, liver=liver)
    assert np.unique(found.lesions.ids[:, :, 9:]).tolist() == [0]
    assert len(found.typed) == 2
    liver[:, :, 6:] = False
    found = _diagnosed(venous, queries=queries, liver=liver)
    assert [lesion.type for lesion in found.typed] == ["hcc"]
    assert found.patient["hcc"] > 0.99
    assert found.patient["cyst"] < 0.01


@pytest.mark.parametrize("queries", [True, False])
def test_small_lesions_are_left_out_and_none_is_no_lesion(queries: bool):
    venous = np.zeros((8, 8, 8))
    venous[3, 3, 3] = HCC
    assert len(_diagnosed(venous, queries=queries, least_diameter_mm=2.0).typed) == 1
    found = _diagnosed(venous, queries=queries, least_diameter_mm=4.0)
    assert found.typed == ()
    assert not found.lesions.ids.any()
    # The patient's probability does not depend on it.
    assert found.patient["hcc"] > 0.99
    assert set(found.by_volume.values()) == {0.0}


def test_an_absent_phase_reaches_the_network_as_zeros():
    seen: list[PhaseInput] = []

    def looking(batch: PhaseInput) -> QueryOutput:
        seen.append(batch)
        return by_voxels(batch)

    hu = np.full((8, 8, 8), 50.0)
    phases = phases_of([None, hu, hu, None])
    # Whatever lies there.
    phases.hu[3] = 70.0
    predict_phases(phases, model_of(diagnosis_settings(network=query_settings(queries=0)), looking))
    (batch,) = seen
    assert batch.is_there.tolist() == [[False, True, True, False]]
    assert batch.phases.amax(dim=(0, 2, 3, 4, 5)).tolist() == [0.0, 0.5, 0.5, 0.0]


def test_outputs_that_are_no_numbers_are_an_error():
    def broken(batch: PhaseInput) -> QueryOutput:
        return QueryOutput(semantic_logits=_semantic(batch) * torch.nan)

    with pytest.raises(BundleError, match="stub: gives NaN or infinity, also in float32"):
        predict_phases(phases_of([None, None, np.zeros((8, 8, 8)), None]), model_of(diagnosis_settings(), broken))


@given(seed=st.integers(0, 1000), share=st.floats(0.05, 1))
def test_liver_max_ignores_voxels_outside_the_liver(seed: int, share: float):
    generator = np.random.default_rng(seed)
    semantic = generator.dirichlet(np.ones(9), (3, 4, 5)).transpose(3, 0, 1, 2).astype(np.float32)
    liver = generator.random((3, 4, 5)) < share
    liver[0, 0, 0] = True
    expected = [max(channel[voxel] for voxel in zip(*np.nonzero(liver), strict=True)) for channel in semantic[1:]]
    assert list(liver_max(semantic, liver, TYPES).values()) == pytest.approx(expected)
    outside = np.where(liver, semantic, generator.random(semantic.shape).astype(np.float32))
    assert liver_max(outside, liver, TYPES) == liver_max(semantic, liver, TYPES)


@given(seed=st.integers(0, 1000), count=st.integers(1, 8))
def test_merging_gives_connected_lesions_whatever_the_order(seed: int, count: int):
    generator = np.random.default_rng(seed)
    liver = np.ones((6, 12, 24), np.bool_)
    queries = []
    for _ in range(count):
        start = generator.integers(0, (1, 5, 17))
        size = generator.integers(1, 6, 3)
        low = start + generator.integers(0, 8 - size, 3).clip(max=(0, 2, 2))
        low[0], size[0] = 0, min(int(size[0]), 6)
        queries.append(
            FoundQuery(
                window=box_slices(start, np.add(start, (6, 8, 8))),
                box=box_slices(low, low + size),
                probability=generator.uniform(0.5, 1, size.tolist()).astype(np.float32),
                classes=generator.dirichlet(np.ones(9)).astype(np.float32),
                score=float(generator.uniform(0.5, 1)),
            )
        )
    found = merged_queries(queries, liver, 0.5)
    ids = np.zeros(liver.shape, np.uint16)
    for number, instance in enumerate(found, 1):
        assert not ids[instance.box][instance.mask].any()
        ids[instance.box][instance.mask] = number
        assert instance.types.sum() == pytest.approx(1, abs=1e-5)
    assert 1 <= len(found) <= count
    assert len(lesion_voxels(ids)) == len(found)
    # The best query is never lost.
    best = max(queries, key=lambda query: query.score)
    assert found[0].score == best.score
    other = merged_queries([queries[index] for index in generator.permutation(count)], liver, 0.5)
    assert [(each.box, each.score) for each in other] == [(each.box, each.score) for each in found]
