"""Bundles of models of lesion types: round trip, damage, other kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from longilesion import shipped
from longilesion.bundle import SETTINGS_FILE, load_bundle
from longilesion.diagnosis import bundle as diagnosis_bundle
from longilesion.diagnosis.bundle import (
    WEIGHTS_FILE,
    load_diagnosis_bundle,
    save_diagnosis_bundle,
    usual_bundle,
)
from longilesion.diagnosis_settings import STATEMENT
from longilesion.errors import BundleError
from longilesion.networks.lesion_queries import LesionQueries, PhaseInput
from test.unit.diagnosis_builders import diagnosis_settings, query_settings

SETTINGS = diagnosis_settings()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_diagnosis_bundle(tmp_path / "types", SETTINGS, LesionQueries(SETTINGS), provenance={"data": "none"})
    return tmp_path / "types"


def _input() -> PhaseInput:
    generator = torch.Generator().manual_seed(1)
    return PhaseInput(
        phases=torch.rand((1, 4, 1, 8, 8, 8), generator=generator), is_there=torch.tensor([[True, False, True, True]])
    )


def test_a_model_comes_back_as_it_was_saved(tmp_path):
    torch.manual_seed(0)
    network = LesionQueries(SETTINGS)
    save_diagnosis_bundle(tmp_path, SETTINGS, network, provenance={"data": "none"})
    model = load_diagnosis_bundle(tmp_path, "cpu", "float32")
    assert (model.settings, model.provenance, model.name) == (SETTINGS, {"data": "none"}, str(tmp_path))
    assert json.loads((tmp_path / SETTINGS_FILE).read_text())["statement"] == STATEMENT
    assert (tmp_path / WEIGHTS_FILE).stat().st_mode & 0o777 == 0o644
    expected, found = network.eval().half().float()(_input()), model.predict(_input())
    torch.testing.assert_close(found.semantic_logits, expected.semantic_logits)
    (layer,), (own,) = found.layers, expected.layers
    torch.testing.assert_close(layer.mask_logits, own.mask_logits)
    torch.testing.assert_close(layer.class_logits, own.class_logits)


def test_the_network_in_less_precision_answers_in_float32(folder):
    model = load_diagnosis_bundle(folder, "cpu", "bfloat16")
    assert model.precision == torch.bfloat16
    found = model.predict(_input())
    assert found.semantic_logits.dtype == torch.float32
    expected = load_diagnosis_bundle(folder, "cpu", "float32").predict(_input())
    torch.testing.assert_close(found.semantic_logits, expected.semantic_logits, atol=0.1, rtol=0.1)


def test_a_bundle_that_outlines_lesions_is_refused(bundle):
    with pytest.raises(BundleError, match="a bundle of a model that outlines lesions; expected a bundle of a model of"):
        load_diagnosis_bundle(bundle)


def test_a_bundle_of_types_outlines_no_lesions(folder):
    with pytest.raises(BundleError, match="a bundle of kind diagnosis; expected one that outlines lesions"):
        load_bundle(folder)


def test_damage(folder, tmp_path):
    manifest = folder / SETTINGS_FILE
    good = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(good), "schema_version": 9}))
    with pytest.raises(BundleError, match="schema version 9; expected 1"):
        load_diagnosis_bundle(folder)
    other = diagnosis_settings(network=query_settings(queries=2))
    manifest.write_text(json.dumps({**json.loads(good), "settings": other.model_dump()}))
    with pytest.raises(BundleError, match=r"expected the tensors of the network in settings\.json"):
        load_diagnosis_bundle(folder)
    manifest.write_text(json.dumps({**json.loads(good), "settings": {}}))
    with pytest.raises(BundleError, match=r"settings\.shape_zyx: Field required"):
        load_diagnosis_bundle(folder)
    manifest.write_text(good)
    (folder / WEIGHTS_FILE).write_bytes(b"short")
    with pytest.raises(BundleError, match="damaged or not a safetensors file"):
        load_diagnosis_bundle(folder)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(BundleError, match="no such file; expected the weights beside"):
        load_diagnosis_bundle(folder)
    with pytest.raises(BundleError, match="expected a bundle of a model of lesion types"):
        load_diagnosis_bundle(tmp_path / "none")


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    network = LesionQueries(SETTINGS)
    next(network.parameters()).data.fill_(torch.inf)
    with pytest.raises(BundleError, match="NaN or infinity"):
        save_diagnosis_bundle(tmp_path, SETTINGS, network, provenance={})
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_bundle_is_the_default(folder, monkeypatch):
    monkeypatch.setattr(diagnosis_bundle, "SHIPPED_MODEL", folder.parent)
    with pytest.raises(BundleError, match="no model of lesion types is shipped; expected the folder"):
        load_diagnosis_bundle()
    folder.rename(folder.parent / shipped.DIAGNOSIS_FOLDER)
    assert usual_bundle() == usual_bundle(folder) == folder.parent / "diagnosis"
    assert load_diagnosis_bundle().settings == SETTINGS
