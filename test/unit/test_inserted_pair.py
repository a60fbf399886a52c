import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from benchmarks.inserted_pair import inserted_pair
from benchmarks.pair_folder import PairFolder
from longilesion.case import PADDING_HU, Scan, lesion_regions
from longilesion.geometry import Grid
from training.synthesis.real_shapes import RealShapes
from training.synthesis.settings import SynthesisSettings

SHAPE, SPACING = (50, 70, 70), (3.0, 2.0, 2.0)
SHIFT_VOXELS = (4, -3, 2)


def lung_pair() -> PairFolder:
    """Noise of lung in two frames, stored in opposite orders, with landmarks that correspond by a shift."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1.0)
    hu = (-850 + 300 * noise).astype(np.int16)
    hu[:, :6] = PADDING_HU
    first = Grid.from_spacing(SHAPE, SPACING, origin_xyz_mm=(-10.0, 20.0, 300.0))
    second = Grid.from_spacing(SHAPE, SPACING, origin_xyz_mm=(400.0, 0.0, -900.0), direction=np.diag([-1.0, -1.0, 1.0]))
    generator = np.random.default_rng(1)
    places = generator.uniform((12, 16, 14), (38, 54, 56), (20, 3))
    return PairFolder(
        baseline=Scan(hu=hu, grid=first),
        followup=Scan(hu=np.roll(hu, SHIFT_VOXELS, axis=(0, 1, 2)), grid=second),
        baseline_xyz_mm=np.array([first.world_xyz_mm(place) for place in places]),
        followup_xyz_mm=np.array([second.world_xyz_mm(place + SHIFT_VOXELS) for place in places]),
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_lesions_lie_at_the_landmarks_of_both_scans(seed: int) -> None:
    folder = lung_pair()
    pair = inserted_pair(
        folder, np.random.default_rng(seed), lesions=6, shapes=RealShapes(), settings=SynthesisSettings()
    )
    prior, followup = pair.case.baselines["primary"], pair.case.followups["primary"]
    before, after = prior.regions, lesion_regions(pair.truth.ids)
    assert len(pair.facts) >= 3
    assert {"persists", "new"} <= {fact.fate for fact in pair.facts.values()}
    assert {fact.lesion_type for fact in pair.facts.values()} == {"Lung"}
    assert before.keys() | after.keys() == pair.facts.keys() == {clicks.lesion_id for clicks in pair.exact_clicks}
    for clicks in pair.exact_clicks:
        fact, landmark = pair.facts[clicks.lesion_id], clicks.lesion_id - 1
        assert (clicks.lesion_id in before) == (fact.fate != "new")
        assert (clicks.lesion_id in after) == (fact.fate != "gone")
        for click, points in (
            (clicks.baseline, folder.baseline_xyz_mm),
            (clicks.followup, folder.followup_xyz_mm),
        ):
            assert np.linalg.norm(np.subtract(click.point_xyz_mm, points[landmark])) < 0.6 * fact.diameter_mm
    for scan, given in ((prior.scan, folder.baseline), (followup, folder.followup)):
        kept, _ = given.grid.lps_view(given.hu)
        np.testing.assert_array_equal(scan.hu == PADDING_HU, kept == PADDING_HU)
        ids = prior.lesions.ids if scan is prior.scan else pair.truth.ids
        # The scan as it is, but for the lesions and their borders.
        assert np.mean(scan.hu != kept) < 4 * np.mean(ids > 0) + 0.01


def test_same_seed_gives_the_same_pair() -> None:
    folder = lung_pair()
    first, second = (
        inserted_pair(folder, np.random.default_rng(3), lesions=4, shapes=RealShapes(), settings=SynthesisSettings())
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.truth.ids, second.truth.ids)
    assert first.case.clicks == second.case.clicks
