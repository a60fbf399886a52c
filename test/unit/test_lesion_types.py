"""Types of outlined lesions from one scan: which lesions get one, and where it is shown."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import longilesion
import process
from longilesion import cli
from longilesion.case import LesionMap
from longilesion.diagnosis.bundle import save_diagnosis_bundle
from longilesion.diagnosis.lesion_types import lesion_types
from longilesion.diagnosis_settings import LESION_TYPES, STATEMENT
from longilesion.errors import InputError
from longilesion.images import read_lesion_map
from longilesion.networks.lesion_queries import LesionQueries, PhaseInput, QueryOutput
from test.unit.builders import ball, flipped
from test.unit.case_folders import SHAPE_ZYX, lesion_ids, soft_tissue, write_case, write_image
from test.unit.diagnosis_builders import block_scan, diagnosis_settings, model_of, query_settings

pytestmark = pytest.mark.usefixtures("restored_logging")

SETTINGS = diagnosis_settings(network=query_settings(queries=0))
HCC_AT, CYST_AT, SPLEEN_AT = (0.0, -20.0, 130.0), (0.0, 0.0, 145.0), (20.0, -8.0, 130.0)
SCAN = block_scan({HCC_AT: 80, CYST_AT: 20, SPLEEN_AT: 80}, noise_hu=1.0)


def by_brightness(batch: PhaseInput) -> QueryOutput:
    """Bright is HCC, dark a cyst; the tissue between is no lesion."""
    assert batch.is_there.tolist() == [[False, False, True, False]]
    venous = batch.phases[:, 2, 0]
    logits = torch.zeros((1, 9, *venous.shape[1:]))
    logits[:, 0] = 6.0
    logits[:, 1] = torch.where(venous > 0.7, 12.0, 0.0)
    logits[:, 7] = torch.where(venous < 0.4, 12.0, 0.0)
    return QueryOutput(semantic_logits=logits)


@pytest.mark.parametrize("is_flipped", [False, True])
def test_lesions_in_the_liver_get_a_type(is_flipped: bool) -> None:
    liver = ball(SCAN.grid, HCC_AT, 14.0) | ball(SCAN.grid, CYST_AT, 14.0)
    ids = np.zeros(SCAN.grid.shape_zyx, np.uint16)
    for number, place in {4: HCC_AT, 2: CYST_AT, 9: SPLEEN_AT}.items():
        ids[ball(SCAN.grid, place, 7.0)] = number
    scan = replace(SCAN, organ=liver)
    if is_flipped:
        (hu, grid), (liver, _), (ids, _) = (flipped(each, SCAN.grid) for each in (SCAN.hu, liver, ids))
        scan = replace(scan, hu=hu, grid=grid, organ=liver)
    types = lesion_types(scan, LesionMap(ids=ids, grid=scan.grid), model_of(SETTINGS, by_brightness))
    assert types.keys() == {2, 4}
    assert {number: max(own, key=own.get) for number, own in types.items()} == {4: "hcc", 2: "cyst"}
    assert all(sum(own.values()) == pytest.approx(1) for own in types.values())


def test_without_a_lesion_in_the_liver_nothing_is_predicted() -> None:
    def forbidden(_: PhaseInput) -> QueryOutput:
        raise AssertionError

    scan = replace(SCAN, organ=ball(SCAN.grid, CYST_AT, 5.0))
    ids = ball(SCAN.grid, HCC_AT, 5.0).astype(np.uint16)
    assert lesion_types(scan, LesionMap(ids=ids, grid=scan.grid), model_of(SETTINGS, forbidden)) == {}


def test_a_model_without_a_venous_phase_is_refused() -> None:
    scan = replace(SCAN, organ=ball(SCAN.grid, HCC_AT, 9.0))
    lesions = LesionMap(ids=ball(SCAN.grid, HCC_AT, 5.0).astype(np.uint16), grid=scan.grid)
    model = model_of(diagnosis_settings(phases=("arterial",)), by_brightness)
    with pytest.raises(InputError, match="venous: the model does not take it"):
        lesion_types(scan, lesions, model)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("types")
    save_diagnosis_bundle(folder, SETTINGS, LesionQueries(SETTINGS), provenance={"data": "none"})
    return folder


def pair(folder: Path) -> tuple[Path, Path]:
    """A scan, which serves as both time points, and the lesions in it."""
    scan = write_image(folder / "scan.nii.gz", soft_tissue())
    lesions = lesion_ids({7: (1, 3, 3), 9: (3, 6, 7)}).astype(np.uint8)
    return scan, write_image(folder / "lesions.nii.gz", lesions)


def organs(folder: Path, origin_xyz_mm: tuple[float, float, float] = (0.0, 0.0, 0.0), *, empty: bool = False) -> Path:
    liver = np.full(SHAPE_ZYX, not empty, np.uint8)
    write_image(folder / "liver.nii.gz", liver, origin_xyz_mm=origin_xyz_mm)
    return folder


def segment(*arguments: object) -> int:
    # The test runner's own handlers would keep the command from setting up its own.
    logging.getLogger().handlers.clear()
    return cli.main(["segment", *map(str, arguments)])


def test_segment_shows_types_where_asked(
    tmp_path: Path, bundle: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scan, lesions = pair(tmp_path)
    masks, report = organs(tmp_path / "organs"), tmp_path / "report.json"
    common = ("--model", bundle, "--device=cpu", "--baseline", scan, "--followup", scan)
    common = (*common, "--lesions", lesions, "--output", tmp_path / "map.nii.gz")
    assert segment(*common, "--types", weights, "--organs", masks, "--report", report) == 0
    out = capfd.readouterr().out
    assert "type" in out
    assert out.rstrip().endswith(f"types: {STATEMENT}")
    written = json.loads(report.read_text())
    assert written["types_statement"] == STATEMENT
    for lesion in written["lesions"]:
        assert lesion["type_probabilities"].keys() == set(LESION_TYPES)
        assert lesion["type"] == max(lesion["type_probabilities"], key=lesion["type_probabilities"].get)
    typed = read_lesion_map(tmp_path / "map.nii.gz").ids
    assert segment(*common, "--report", report) == 0
    np.testing.assert_array_equal(read_lesion_map(tmp_path / "map.nii.gz").ids, typed)
    assert STATEMENT not in capfd.readouterr().out
    untyped = json.loads(report.read_text())
    assert untyped["types_statement"] is None
    assert {lesion["type"] for lesion in untyped["lesions"]} == {None}
    for options, found in (
        (("--types", weights), "--types without the liver; expected --organs"),
        (("--types", weights, "--organs", masks, "--organ", "liver"), "--organ without a search"),
        (("--types", weights, "--organs", masks, "--labels", "binary"), "expected --labels lesion_ids"),
        (("--types", bundle, "--organs", masks), "a bundle of a model that outlines lesions"),
        (("--types", weights, "--organs", organs(tmp_path / "empty", empty=True)), "expected"),
    ):
        assert segment(*common, *options) == 1
        assert found in capfd.readouterr().err


def test_process_reports_types_by_the_models_own_bundle(
    tmp_path: Path, bundle: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case, report = write_case(tmp_path / "in"), tmp_path / "report.json"
    masks = organs(tmp_path / "organs", (3.0, -4.0, 500.0))
    model = tmp_path / "model"
    model.mkdir()
    for path in bundle.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    paths = ("--input", case, "--output", tmp_path / "out", "--model", model, "--device", "cpu")
    options = (*paths, "--organs", masks, "--types")

    def run(*arguments: object) -> int:
        return process.main([str(argument) for argument in arguments])

    assert run(*options, "--report", report) != 0
    assert "no model of lesion types is shipped" in capfd.readouterr().err
    (model / "diagnosis").mkdir()
    for path in weights.iterdir():
        (model / "diagnosis" / path.name).write_bytes(path.read_bytes())
    assert run(*options, "--report", report) == 0
    (lesion,) = json.loads(report.read_text())["lesions"]
    assert lesion["type"] in LESION_TYPES
    captured = capfd.readouterr()
    assert captured.err == ""
    assert f"telling types of liver lesions with {model / 'diagnosis'}: {STATEMENT}" in captured.out
    assert run(*options, weights) != 0
    assert "--types without a report, where they are written; expected --report too" in capfd.readouterr().err


def test_python_interface_gives_types(tmp_path: Path, bundle: Path, weights: Path) -> None:
    followup, lesions = pair(tmp_path)
    masks = organs(tmp_path / "organs")
    given = {"baseline": followup, "lesions": lesions, "ensemble": longilesion.load_ensemble(bundle, device="cpu")}
    types = longilesion.load_diagnosis_bundle(weights, device="cpu")
    found = longilesion.segment(followup, organs=masks, types=types, **given)
    assert found.types is not None
    assert found.types.keys() == {number for number in np.unique(found.maps["primary"].ids).tolist() if number}
    assert longilesion.segment(followup, **given).types is None
    with pytest.raises(InputError, match="types without organs"):
        longilesion.segment(followup, types=types, **given)
