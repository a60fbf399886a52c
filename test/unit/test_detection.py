"""A network slid over a scan: windows, their weights, the region that is searched, outlines and sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from longilesion.case import Baseline, Scan
from longilesion.config import DetectionSettings, EncodingSettings
from longilesion.detection import Prior, find_candidates, slide
from longilesion.encoding import encode
from longilesion.ensemble import Ensemble
from longilesion.geometry import Grid
from longilesion.networks.interface import NetworkInput, NetworkOutput
from longilesion.registered import sample_registered
from longilesion.registration.reduction import reduce_scan
from longilesion.registration.register import SPACING_MM
from longilesion.sliding import Region, region_of, window_starts
from test.unit.builders import NetworkWithoutWeights, ball, flipped, model_settings, scan_with
from test.unit.test_registered import registration_of

GRID = Grid.from_spacing((24, 40, 40), (3.0, 1.5, 1.5), origin_xyz_mm=(-30.0, -30.0, 500.0))
FIRST, SECOND = (-12.0, -12.0, 520.0), (12.0, 12.0, 550.0)


class BrightVoxels(NetworkWithoutWeights):
    """A voxelwise network: what is above 190 HU; it keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[NetworkInput] = []

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        self.seen.append(batch)
        return NetworkOutput(lesion_logits=(30 * (batch.followup[:, :1] - 0.85),))


def detector(*, organ: bool = False, **detection: float) -> Ensemble:
    encoding = EncodingSettings(
        followup_channels=("image", "click_heatmap", *(("organ_mask",) if organ else ())),
        baseline_channels=("image", "lesion_mask"),
    )
    settings = model_settings(shape_zyx=(24, 24, 24), spacing_zyx_mm=(2.0, 2.0, 2.0), encoding=encoding)
    settings = settings.model_copy(update={"detection": DetectionSettings(**detection)})
    return Ensemble.of(settings, (BrightVoxels(),), device=torch.device("cpu"), precision=torch.float32)


def inputs_of(ensemble: Ensemble) -> list[NetworkInput]:
    (network,) = ensemble.networks
    assert isinstance(network, BrightVoxels)
    return network.seen


def body_of(scan: Scan) -> Region:
    reduced = reduce_scan(scan, SPACING_MM)
    return Region(mask=reduced.body, grid=reduced.grid)


def everything(scan: Scan, ensemble: Ensemble) -> Region:
    view, lps = scan.grid.lps_view(np.ones(scan.grid.shape_zyx, np.bool_))
    region = region_of(view, lps, ensemble.settings.voi)
    assert region is not None
    return region


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7])
def test_blended_windows_of_a_voxelwise_network_equal_the_whole_at_once(overlap: float) -> None:
    scan, _ = scan_with({1: (FIRST, 6.0), 2: (SECOND, 9.0)}, GRID)
    ensemble = detector(overlap=overlap)
    region = everything(scan, ensemble)

    found = slide(scan, (), ensemble, region)

    batch = encode([sample_registered(scan, None, None, region.grid)], ensemble.settings.encoding)
    whole = (30 * (batch.followup[:, 0] - 0.85)).sigmoid().numpy()[0]
    assert len(inputs_of(ensemble)) > 3
    np.testing.assert_allclose(found / 65535, np.where(region.mask, whole, 0), atol=2e-5)
    assert 0 < region.mask.mean() < 1


def test_windows_cover_every_voxel_with_the_overlap_or_more() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        length, window, overlap = (
            int(generator.integers(1, 90)),
            int(generator.integers(8, 30)),
            generator.random() * 0.9,
        )
        starts = window_starts(length, window, overlap)
        assert starts[0] == 0
        assert starts[-1] == max(length - window, 0)
        # Each start is rounded to a whole voxel.
        assert max(np.diff(starts), default=0) <= window * (1 - overlap) + 1
        assert max(np.diff(starts), default=0) <= window


@pytest.mark.parametrize("is_flipped", [False, True])
def test_lesions_are_outlined_on_the_scans_voxels_and_small_ones_are_left_out(is_flipped: bool) -> None:
    third = (15.0, -15.0, 530.0)
    scan, lesions = scan_with({1: (FIRST, 5.0), 2: (SECOND, 9.0), 3: (third, 2.6)}, GRID)
    if is_flipped:
        hu, grid = flipped(scan.hu, scan.grid)
        scan = Scan(hu=hu, grid=grid)

    found = find_candidates(scan, (), detector(), body=body_of(scan))

    assert len(found) == 2
    assert [candidate.score for candidate in found] == sorted((each.score for each in found), reverse=True)
    for candidate in found:
        # The larger one lies farther up.
        centre, radius = (SECOND, 9.0) if candidate.centre_xyz_mm[2] > 535 else (FIRST, 5.0)
        assert candidate.centre_xyz_mm == pytest.approx(centre, abs=0.5)
        assert candidate.diameter_mm == pytest.approx(2 * radius, abs=2.5)
        truth = ball(candidate.grid, centre, radius)
        assert 2 * (truth & candidate.mask).sum() / (truth.sum() + candidate.mask.sum()) > 0.85
        assert candidate.score > 0.9
        view, lps = scan.grid.lps_view(scan.hu)
        np.testing.assert_allclose(lps.world_xyz_mm(candidate.start_zyx), candidate.grid.world_xyz_mm((0, 0, 0)))
        assert view[candidate.box][candidate.mask].mean() > 200
    assert len(find_candidates(scan, (), detector(least_diameter_mm=0.0), body=body_of(scan))) == 3
    assert lesions.ids.any()


def test_a_search_is_confined_to_the_organ_which_the_network_sees() -> None:
    scan, _ = scan_with({1: (FIRST, 6.0), 2: (SECOND, 9.0)}, GRID)
    organ = ball(GRID, FIRST, 15.0)
    confined = replace(scan, organ=organ)
    ensemble = detector(organ=True)
    (candidate,) = find_candidates(confined, (), ensemble, body=body_of(scan))
    assert candidate.centre_xyz_mm == pytest.approx(FIRST, abs=0.5)
    shares = torch.cat([batch.followup[:, -1] for batch in inputs_of(ensemble)])
    assert 0 < shares.mean() < 1
    # No click, no heat map.
    assert not any(batch.followup[:, 1].any() for batch in inputs_of(ensemble))
    # The organ ends in the middle of a lesion.
    half = organ.copy()
    half[:, :, GRID.shape_zyx[2] // 3 :] = False
    (cut,) = find_candidates(replace(scan, organ=half), (), detector(), body=body_of(scan))
    view, _ = GRID.lps_view(half)
    assert view[cut.box][cut.mask].all()
    assert cut.volume_ml < candidate.volume_ml


def test_without_an_organ_the_body_is_taken_for_it(caplog: pytest.LogCaptureFixture) -> None:
    scan, _ = scan_with({1: (FIRST, 6.0)}, GRID)
    ensemble = detector(organ=True)
    caplog.set_level("INFO")
    assert len(find_candidates(scan, (), ensemble, body=body_of(scan))) == 1
    assert "the body is taken for it" in caplog.text
    assert any(batch.followup[:, -1].mean() > 0.5 for batch in inputs_of(ensemble))


def test_an_empty_organ_holds_nothing() -> None:
    scan, _ = scan_with({1: (FIRST, 6.0)}, GRID)
    empty = replace(scan, organ=np.zeros(GRID.shape_zyx, np.bool_))
    assert find_candidates(empty, (), detector(), body=body_of(scan)) == []


def test_windows_see_the_registered_baseline_and_its_lesions() -> None:
    scan, lesions = scan_with({7: (FIRST, 6.0)}, GRID)
    prior = Prior(baseline=Baseline.of(scan, lesions), registration=registration_of(GRID, GRID))
    ensemble = detector()
    steps: list[tuple[int, int]] = []
    find_candidates(scan, [prior], ensemble, body=body_of(scan), progress=lambda *step: steps.append(step))
    seen = inputs_of(ensemble)
    assert any(batch.has_baseline.all() for batch in seen)
    assert max(float(batch.baseline[:, 1].max()) for batch in seen) > 0.9
    assert steps[-1][0] == steps[-1][1] == sum(map(len, seen))
