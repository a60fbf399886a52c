from dataclasses import replace

import numpy as np
import pytest

from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.grand_challenge import read_case
from test.longitudinal_ct import write_nifti
from training.preparation.prepared import read_prepared
from training.preparation.run import Options, prepare
from training.preparation.synthetic import find_synthetic
from training.synthesis.pairs import SyntheticSeries, synthetic_series
from training.synthesis.phantom import torso
from training.synthesis.settings import SynthesisSettings
from training.synthesis.shape_library import LibraryShape, write_shape_library


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Two coarse torsos, of which one has a real lesion."""
    folder = tmp_path_factory.mktemp("volumes")
    grid = Grid.from_spacing((40, 48, 64), (8.0, 6.0, 6.0))
    for number, name in enumerate(("one", "two")):
        (folder / name).mkdir()
        write_nifti(folder / name / "ct.nii.gz", torso(np.random.default_rng(number), grid=grid).hu, grid)
    mask = np.zeros(grid.shape_zyx, np.uint8)
    mask[18:22, 22:27, 28:33] = 1
    write_nifti(folder / "two" / "lesions.nii.gz", mask, grid)
    return folder


def pairs(volumes, *, cases=4, seed=5):
    return find_synthetic(volumes, cases=cases, phantoms=3, seed=seed, settings=SynthesisSettings(), whole=False)


def test_pairs_of_a_volume_are_one_patients_and_follow_from_their_number(volumes, tmp_path):
    prepare(pairs(volumes), Options(output=tmp_path / "a", name="drawn", folds=2, workers=1))
    data = read_prepared(tmp_path / "a")
    assert {case.case_id: case.patient for case in data.cases} == {
        "pair_00000": "one",
        "pair_00001": "two",
        "pair_00002": "one",
        "pair_00003": "two",
    }
    for fold in range(2):
        train, validation = data.split(fold)
        assert {case.patient for case in train} & {case.patient for case in validation} == set()
    # The third pair alone is the same as after the others; with another seed it is not.
    written, _ = read_case(data.folder / "cases" / "pair_00002" / "input")
    alone, other = (
        next(job.make().cases[0].case for job in pairs(volumes, seed=seed).jobs if job.name == "pair_00002")
        for seed in (5, 6)
    )
    np.testing.assert_array_equal(alone.followups["primary"].hu, written.followups["primary"].hu)
    np.testing.assert_array_equal(alone.baselines["primary"].lesions.ids, written.baselines["primary"].lesions.ids)
    assert not np.array_equal(other.followups["primary"].hu, written.followups["primary"].hu)


def test_a_pair_is_a_case_with_its_facts(volumes):
    for job in pairs(volumes, cases=2).jobs:
        (content,) = job.make().cases
        assert content.facts.keys() == {pair.lesion_id for pair in content.case.clicks}
        shown = set(np.unique(content.truth["primary"].ids).tolist()) - {0}
        assert shown == {fact.true_id for fact in content.facts.values()} - {None}


def test_consecutive_time_points_of_a_series_are_cases_of_one_patient(volumes):
    source = find_synthetic(volumes, cases=1, phantoms=3, seed=5, settings=SynthesisSettings(), whole=False, times=3)
    made = source.jobs[0].make()
    first, second = made.cases
    assert [entry.previous for entry in made.record.cases] == [None, "pair_00000_1"]
    assert [each.case_id for each in (first, second)] == ["pair_00000_1", "pair_00000_2"]
    assert first.patient == second.patient
    np.testing.assert_array_equal(first.case.followups["primary"].hu, second.case.baselines["primary"].scan.hu)
    np.testing.assert_array_equal(first.truth["primary"].ids, second.case.baselines["primary"].lesions.ids)


def test_series_is_broken_where_a_pair_shows_no_lesion(volumes, monkeypatch):
    def broken(*arguments, **settings):
        drawn = synthetic_series(*arguments, **settings).pairs
        facts = next(pair.facts for pair in drawn if pair.facts)
        return SyntheticSeries(
            pairs=tuple(replace(pair, facts={} if place == 1 else facts) for place, pair in enumerate(drawn))
        )

    source = find_synthetic(volumes, cases=1, phantoms=3, seed=5, settings=SynthesisSettings(), whole=False, times=5)
    monkeypatch.setattr("training.preparation.synthetic.synthetic_series", broken)
    made = source.jobs[0].make()
    previous = {entry.case_id: entry.previous for entry in made.record.cases}
    assert previous == {"pair_00000_1": None, "pair_00000_3": None, "pair_00000_4": "pair_00000_3"}


def test_shapes_of_a_file_are_noted_with_their_licence(volumes, tmp_path):
    shape = LibraryShape.of(np.ones((3, 4, 5), bool), np.ones(3, np.float32), "mixed")
    write_shape_library(tmp_path / "shapes.npz", [shape], licence="CC BY 4.0")
    source = find_synthetic(
        volumes,
        cases=1,
        phantoms=3,
        seed=5,
        settings=SynthesisSettings(real_shape_share=1.0, real_share=0.0),
        whole=False,
        shapes=tmp_path / "shapes.npz",
    )
    assert source.licence == "lesion shapes of shapes.npz: CC BY 4.0"
    assert source.arguments["shapes"].startswith("1 shapes of shapes.npz ")
    with_file, without = (found.jobs[0].make().cases[0].truth["primary"].ids for found in (source, pairs(volumes)))
    assert not np.array_equal(with_file, without)


def test_without_volumes_phantoms_take_turns():
    source = find_synthetic(None, cases=5, phantoms=2, seed=0, settings=SynthesisSettings(), whole=True)
    assert sorted((job.name, job.patient) for job in source.jobs) == [
        ("pair_00000", "phantom_1000"),
        ("pair_00001", "phantom_1001"),
        ("pair_00002", "phantom_1000"),
        ("pair_00003", "phantom_1001"),
        ("pair_00004", "phantom_1000"),
    ]


def test_a_folder_without_volumes_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no <volume>/ct\.nii\.gz; expected a folder"):
        find_synthetic(tmp_path, cases=5, phantoms=2, seed=0, settings=SynthesisSettings(), whole=True)
