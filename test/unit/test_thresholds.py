"""Thresholds chosen on synthetic pairs, and the comparison of models on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.models import Arguments as CompareArguments
from benchmarks.models import compare
from longilesion.bundle import read_manifest, save_bundle
from longilesion.config import InferenceSettings
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from longilesion.networks import build_network
from longilesion.pipeline import segment_case
from test.unit.builders import model_settings
from test.unit.synthetic import block, pair
from training.thresholds import OUTLINE_THRESHOLDS, Arguments, Judged, choose, chosen_thresholds, tables

RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "compact.toml"


def write_model(folder: Path, **inference: float) -> Path:
    model = model_settings(
        shape_zyx=(8, 16, 16), spacing_zyx_mm=(6.0, 3.0, 3.0), inference=InferenceSettings(**inference)
    )
    torch.manual_seed(0)
    save_bundle(folder, model, [build_network(model)], provenance={"recipe": "tiny"})
    return folder


@pytest.fixture
def one_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.training_data.phantom_sources", lambda seeds: (block(),))
    monkeypatch.setattr("training.training_data.synthetic_pair", lambda *_, **__: pair(1))


def absent(presence: float) -> Judged:
    return Judged(presence=presence, is_present=False, is_persisting=False, dice=(None,) * len(OUTLINE_THRESHOLDS))


@settings(deadline=None, max_examples=60)
@given(
    presences=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    new=st.lists(st.floats(0, 1), max_size=10),
    gone=st.lists(st.floats(0, 1), max_size=10),
    kept=st.floats(0.5, 0.99),
    seed=st.integers(0, 999),
)
def test_the_presence_threshold_keeps_at_least_the_share_of_what_persists_and_the_outlines_is_the_best(
    presences: list[float], new: list[float], gone: list[float], kept: float, seed: int
) -> None:
    dice = np.random.default_rng(seed).uniform(size=(len(presences) + len(new), len(OUTLINE_THRESHOLDS)))
    judged = [
        Judged(presence=presence, is_present=True, is_persisting=place < len(presences), dice=tuple(map(float, row)))
        for place, (presence, row) in enumerate(zip([*presences, *new], dice, strict=True))
    ]
    judged += [absent(presence) for presence in gone]
    chosen = chosen_thresholds(judged, kept=kept)
    assert chosen.threshold == OUTLINE_THRESHOLDS[int(dice.mean(0).argmax())]
    # The quantile lies between two lesions, and the threshold is rounded to a thousandth.
    lost = sum(presence < chosen.presence_threshold - 5e-4 for presence in presences)
    assert lost <= (1 - kept) * (len(presences) - 1) + 1


def test_without_a_persisting_lesion_there_is_nothing_to_choose_on() -> None:
    new = Judged(presence=0.9, is_present=True, is_persisting=False, dice=(0.5,) * 7)
    with pytest.raises(InputError, match="none of 2 lesions persists"):
        chosen_thresholds([absent(0.2), new], kept=0.9)


def test_the_tables_show_what_is_recognised_at_each_share_kept() -> None:
    dice = (0.5,) * 6 + (0.6,)
    judged = [Judged(presence=0.5 + 0.005 * k, is_present=True, is_persisting=True, dice=dice) for k in range(101)]
    judged += [Judged(presence=0.0, is_present=True, is_persisting=False, dice=dice)] * 50
    judged += [absent(presence) for presence in (0.1, 0.4, 0.53, 0.9)]
    outline, presence = tables(judged)
    assert outline.rows[0] == ("0.2", "0.5000")
    assert outline.rows[-1] == ("0.5", "0.6000")
    assert presence.rows[0] == ("0.99", "0.505", "0.500")
    assert presence.rows[-1] == ("0.9", "0.550", "0.750")


@pytest.mark.usefixtures("one_pair")
def test_the_written_model_is_the_same_with_the_chosen_thresholds(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", threshold=0.6, presence_threshold=0.9)
    chosen = choose(Arguments(model=model, output=tmp_path / "out", recipe=RECIPE, cases=1, kept=0.6))
    manifest = read_manifest(tmp_path / "out")
    assert manifest.thresholds == chosen
    assert manifest.provenance["recipe"] == "tiny"
    assert "1 synthetic pairs of" in manifest.provenance["thresholds"]
    before, after = load_ensemble(model, device="cpu"), load_ensemble(tmp_path / "out", device="cpu")
    assert before.thresholds != after.thresholds
    for old, new in zip(before.networks, after.networks, strict=True):
        for name, tensor in old.state_dict().items():
            assert tensor.equal(new.state_dict()[name])
    # The presences that the threshold was chosen on are those of the pipeline.
    facts = pair(1).facts
    outcomes = segment_case(pair(1).case, after).lesions
    persisting = [
        o.presence for o in outcomes if facts[o.prompt.lesion_id].fate not in ("gone", "new") and o.presence is not None
    ]
    assert chosen.presence_threshold == pytest.approx(np.quantile(persisting, 0.4), abs=2e-3)


@pytest.mark.usefixtures("one_pair")
@pytest.mark.parametrize(
    ("change", "message"), [({"kept": 1.0}, "--kept 1; expected a share"), ({"cases": 0}, "--cases 0; expected")]
)
def test_settings_that_choose_nothing_are_refused(change: dict[str, float], message: str, tmp_path: Path) -> None:
    arguments = Arguments(model=tmp_path, output=tmp_path / "out", recipe=RECIPE)
    for name, value in change.items():
        setattr(arguments, name, value)
    with pytest.raises(InputError, match=message):
        choose(arguments)


def test_a_model_does_not_differ_from_itself_and_one_that_keeps_nothing_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.training_data.phantom_sources", lambda seeds: (block(),))
    drawn = iter((3, 5))
    monkeypatch.setattr("training.training_data.synthetic_pair", lambda *_, **__: pair(next(drawn)))
    keeping = write_model(tmp_path / "keeping", threshold=0.01, presence_threshold=0.0)
    losing = write_model(tmp_path / "losing", threshold=0.01, presence_threshold=1.0)
    output = tmp_path / "tables.md"
    (table,) = compare(
        CompareArguments(models=(keeping, keeping, losing), recipe=RECIPE, cases=2, output=output, kept=0.9)
    )
    rows = {row[0]: row[1:] for row in table.rows}
    means = {name: [float(cell.split()[0]) for cell in cells[:5]] for name, cells in rows.items()}
    # Of 9 lesions, 6 are present and 3 gone.
    assert [cell.endswith("(6)") for cell in rows["present kept"]] == [True] * 5
    assert means["present kept"][2] == 0.0 < means["present kept"][0]
    assert means["gone recognised"][2] == 1.0 > means["gone recognised"][0]
    for name, (first, again, other, no_difference, difference) in means.items():
        if not name.startswith("seconds"):
            assert first == again
            assert no_difference == 0.0
            assert difference == pytest.approx(other - first, abs=1e-3)
    # Where thresholds are chosen alike, nothing is left of the models' own.
    assert means["gone recognised where 0.9 are kept"][4] == 0.0
    assert f"## {table.title}" in output.read_text()


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InputError, match="no model given"):
        compare(CompareArguments(models=()))
