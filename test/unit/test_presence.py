"""The fit of the presence head after the network's own training."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from longilesion.bundle import read_manifest, save_bundle
from longilesion.config import InferenceSettings
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from longilesion.networks import build_network
from longilesion.networks.presence import LocalPresence
from test.unit.builders import model_settings
from test.unit.training_runs import few_pairs
from training.presence import Arguments, Judged, fit_presence, fitted_head, parts_of, presence_threshold
from training.recipe import DataSettings, PresenceSettings, Recipe


def judged(head: LocalPresence, count: int, *, seed: int) -> Judged:
    """Lesions of noise, whose last feature is high where they are present."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 2, head.layers[0].in_features, generator=generator)
    present = torch.rand(count, generator=generator) < 0.5
    features[..., -1] += 6.0 * present[:, None]
    return Judged(features=features, present=present, outlined=torch.ones_like(present))


def test_fitted_head_tells_present_from_gone_and_leaves_the_old_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.presence._EPOCHS", 60)
    torch.manual_seed(0)
    head = LocalPresence(1, image_channels=0, hidden=8)
    before = [parameter.clone() for parameter in head.parameters()]
    unseen = judged(head, 200, seed=2)
    fitted = fitted_head(head, judged(head, 1500, seed=1), unseen)
    with torch.no_grad():
        right = (unseen.logits(fitted).mean(1) > 0) == unseen.present
        right_before = (unseen.logits(head).mean(1) > 0) == unseen.present
    assert float(right.float().mean()) > 0.9
    assert float(right_before.float().mean()) < 0.8
    assert all(torch.equal(old, now) for old, now in zip(before, head.parameters(), strict=True))


def test_head_stays_as_it_was_where_no_fit_does_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.presence._EPOCHS", 3)
    torch.manual_seed(0)
    head = LocalPresence(1, image_channels=0, hidden=8)
    seen = judged(head, 300, seed=1)
    contrary = judged(head, 100, seed=2)
    contrary = Judged(features=contrary.features, present=~contrary.present, outlined=contrary.outlined)
    fitted = fitted_head(head, seen, contrary)
    for old, now in zip(head.parameters(), fitted.parameters(), strict=True):
        assert torch.equal(old, now)


@pytest.mark.parametrize("kept", [0.9, 0.96])
def test_threshold_keeps_the_wanted_share_of_present_lesions_and_no_more(kept: float) -> None:
    presence = torch.linspace(0, 1, 501)
    threshold = presence_threshold(presence, PresenceSettings(kept=kept))
    assert threshold == pytest.approx(1 - kept)
    assert float((presence >= threshold).float().mean()) == pytest.approx(kept, abs=0.003)


def test_bundle_gets_new_heads_and_a_threshold_and_keeps_its_outlines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.presence._EPOCHS", 20)
    few_pairs(monkeypatch)
    settings = model_settings(
        shape_zyx=(8, 16, 16), spacing_zyx_mm=(6.0, 3.0, 3.0), inference=InferenceSettings(mirror_axes=("x",))
    )
    recipe = Recipe(
        name="tiny",
        steps=1,
        batch_size=4,
        data=DataSettings(drawn_together=8),
        presence=PresenceSettings(lesions=40),
        model=settings,
    )
    monkeypatch.setattr("training.presence.read_recipe", lambda path: recipe)
    torch.manual_seed(0)
    save_bundle(tmp_path / "old", settings, [build_network(settings) for _ in range(2)], provenance={"recipe": "tiny"})
    fit_presence(Arguments(recipe=Path("tiny.toml"), bundle=tmp_path / "old", output=tmp_path / "new", workers=0))

    old, new = (load_ensemble(tmp_path / name, device="cpu", precision="float32") for name in ("old", "new"))
    threshold = new.settings.inference.presence_threshold
    assert 0 < threshold < 1
    assert threshold != old.settings.inference.presence_threshold
    assert read_manifest(tmp_path / "new").provenance == {"recipe": "tiny"}
    for before, after in zip(old.networks, new.networks, strict=True):
        changed = {
            name
            for name, tensor in after.state_dict().items()
            if not np.array_equal(tensor.numpy(), before.state_dict()[name].numpy())
        }
        assert changed
        assert all(name.startswith("presence.") for name in changed)


@given(origins=st.lists(st.integers(0, 30).map(str), min_size=4, max_size=200))
def test_no_patient_is_in_two_parts_of_the_fit(origins: list[str]) -> None:
    assume(len(set(origins)) >= 4)
    parts = parts_of(origins)
    chosen = torch.stack([parts.fit, parts.epoch, parts.threshold, parts.figures])
    assert bool((chosen.sum(0) == 1).all())
    shown = [{origin for origin, mine in zip(origins, part.tolist(), strict=True) if mine} for part in chosen]
    assert all(shown)
    assert sum(map(len, shown)) == len(set(origins))


def test_half_of_the_patients_are_fitted_to_and_a_quarter_give_the_threshold() -> None:
    parts = parts_of([str(number) for number in range(40)])
    assert [int(part.sum()) for part in (parts.fit, parts.epoch, parts.threshold, parts.figures)] == [20, 5, 10, 5]


def test_too_few_patients_for_the_parts_of_the_fit_are_refused() -> None:
    with pytest.raises(InputError, match="3 patients or pairs to fit the presence to; expected at least 4"):
        parts_of(["ann", "bob", "cas", "ann"])


def lesions_of(
    present: list[bool], *, outlined: list[bool] | None = None, views: int = 1
) -> tuple[list[Judged], list[str]]:
    """Eight pairs of one lesion each: four are fitted to, one gives the epoch, two the threshold, one the figures."""
    width = LocalPresence(3 * 4, image_channels=2, hidden=4).norm.normalized_shape[0] + 4 + 5
    features = torch.randn(8, views, width, generator=torch.Generator().manual_seed(0))
    there = torch.tensor(present)
    outlined = torch.ones_like(there) if outlined is None else torch.tensor(outlined)
    return [Judged(features=features, present=there, outlined=outlined)], [str(number) for number in range(8)]


@pytest.fixture
def small_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arguments:
    """A bundle to fit, whose lesions a test gives."""
    monkeypatch.setattr("training.presence._EPOCHS", 1)
    few_pairs(monkeypatch)
    settings = model_settings(shape_zyx=(8, 16, 16), spacing_zyx_mm=(6.0, 3.0, 3.0))
    recipe = Recipe(name="tiny", steps=1, batch_size=4, data=DataSettings(drawn_together=8), model=settings)
    monkeypatch.setattr("training.presence.read_recipe", lambda path: recipe)
    torch.manual_seed(0)
    save_bundle(tmp_path / "old", settings, [build_network(settings)], provenance={})
    return Arguments(
        recipe=Path("tiny.toml"), bundle=tmp_path / "old", output=tmp_path / "new", workers=0, device="cpu"
    )


@pytest.mark.parametrize(
    "lesions",
    [
        lesions_of([True] * 5 + [False] * 2 + [True]),
        # Two new lesions: they are there, but nobody asks whether they still are.
        lesions_of([True] * 8, outlined=[True] * 5 + [False] * 2 + [True]),
    ],
)
def test_threshold_without_a_persisting_lesion_is_refused(
    small_fit: Arguments, monkeypatch: pytest.MonkeyPatch, lesions: tuple[list[Judged], list[str]]
) -> None:
    monkeypatch.setattr("training.presence._judged", lambda *_, **__: lesions)
    with pytest.raises(InputError, match="none of the 2 lesions to choose the threshold on persists"):
        fit_presence(small_fit)
    assert not small_fit.output.exists()


def test_figures_are_not_those_of_the_lesions_that_gave_the_threshold(
    small_fit: Arguments, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (lesions,), origins = lesions_of([True] * 7 + [False])
    monkeypatch.setattr("training.presence._judged", lambda *_, **__: ([lesions], origins))
    fit_presence(small_fit)
    # The one lesion of the figures is gone.
    assert "keeps 0 of 0 of what persists and recognises" in caplog.text
    assert "of 1 (" in caplog.text


def test_lesions_of_the_command_line_are_drawn_in_place_of_the_recipes(
    small_fit: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def judge(*given: object, **_: object) -> tuple[list[Judged], list[str]]:
        drawn.extend(recipe.presence.lesions for recipe in given if isinstance(recipe, Recipe))
        return lesions_of([True] * 8)

    monkeypatch.setattr("training.presence._judged", judge)
    for count in (None, 9):
        fit_presence(replace(small_fit, lesions=count))
    assert drawn == [PresenceSettings().lesions, 9]
    with pytest.raises(InputError, match="--lesions 7; expected at least 8"):
        fit_presence(replace(small_fit, lesions=7))


@pytest.mark.gpu
def test_fit_on_a_gpu_gives_a_bundle_that_a_cpu_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.presence._EPOCHS", 2)
    few_pairs(monkeypatch)
    settings = model_settings(shape_zyx=(8, 16, 16), spacing_zyx_mm=(6.0, 3.0, 3.0))
    presence = PresenceSettings(lesions=40)
    data = DataSettings(drawn_together=8)
    recipe = Recipe(name="tiny", steps=1, batch_size=4, data=data, presence=presence, model=settings)
    monkeypatch.setattr("training.presence.read_recipe", lambda path: recipe)
    save_bundle(tmp_path / "old", settings, [build_network(settings)], provenance={})
    arguments = Arguments(recipe=Path("tiny.toml"), bundle=tmp_path / "old", output=tmp_path / "new", workers=0)
    torch.cuda.reset_peak_memory_stats()
    fit_presence(arguments)
    assert torch.cuda.max_memory_allocated() > 0
    assert load_ensemble(tmp_path / "new", device="cpu").settings.network == settings.network
