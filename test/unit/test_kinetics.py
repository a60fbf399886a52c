from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.diagnosis_settings import LESION_TYPES, PHASES
from training.synthesis.kinetics import ASSUMPTION, BEHAVIOUR, TISSUES, drawn_hu, drawn_levels
from training.synthesis.kinetics_table import SOURCES, kinetics_tables
from training.synthesis.lesion_kinds import KINDS, kinds_of

seeds = st.integers(0, 2**32)
PARTS = [(kind, part) for kind in KINDS for part in kind.parts]


@given(seed=seeds)
def test_tissues_of_a_patient_lie_in_the_tables_ranges(seed):
    levels = drawn_levels(np.random.default_rng(seed))
    for tissue, row in TISSUES.items():
        for phase, (low, high) in zip(PHASES, row.hu, strict=True):
            assert low <= levels[tissue][phase] <= high


@given(seed=seeds, number=st.integers(0, len(PARTS) - 1))
def test_parts_of_a_lesion_lie_in_the_tables_ranges(seed, number):
    _, part = PARTS[number]
    drawn = drawn_hu(part.hu, np.random.default_rng(seed))
    for phase, (low, high) in zip(PHASES, part.hu, strict=True):
        assert low <= drawn[phase] <= high
    if len(set(part.hu)) == 1:
        # What does not take up contrast medium is the same in all phases.
        assert len(set(drawn.values())) == 1


@given(seed=seeds)
def test_the_liver_is_brightest_in_the_venous_phase_and_the_arteries_in_the_arterial_one(seed):
    levels = drawn_levels(np.random.default_rng(seed))
    assert max(PHASES, key=levels["liver"].get) == "venous"
    assert max(PHASES, key=levels["artery"].get) == "arterial"
    assert levels["liver"]["non_contrast"] < levels["liver"]["delayed"]


def test_every_type_has_kinds_and_there_are_more_than_ten_rare_ones():
    assert {kind.lesion_type for kind in KINDS} == set(LESION_TYPES)
    assert len({kind.name for kind in kinds_of("other")}) > 10
    assert len({kind.share for kind in kinds_of("other")}) == 1


@pytest.mark.parametrize(("kind", "part"), PARTS, ids=lambda each: getattr(each, "name", None))
def test_a_part_is_well_formed_and_its_sources_are_listed(kind, part):
    assert part is not kind.parts[0] or (part.begins == (0, 0) and set(part.ends) == {(1, 1)})
    assert len(part.hu) == len(part.ends) == len(PHASES)
    assert len(part.sources) in (1, len(PHASES))
    assert {source.removeprefix(BEHAVIOUR) for source in part.sources} <= {*SOURCES, ASSUMPTION}
    # A part that fills in goes deeper from phase to phase.
    assert list(part.ends) == sorted(part.ends)
    for low, high in (part.begins, *part.hu, *part.ends, part.unevenness):
        assert low <= high


def test_every_source_is_used():
    used = {source for row in TISSUES.values() for source in row.sources}
    used |= {source.removeprefix(BEHAVIOUR) for _, part in PARTS for source in part.sources}
    assert used - {ASSUMPTION} == set(SOURCES)


def test_the_page_shows_the_tables_of_the_code():
    page = Path("docs/lesion-kinetics.md").read_text(encoding="utf-8")
    assert page[page.index("## Tissues") :] == kinetics_tables()
