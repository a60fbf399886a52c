"""The fit of the presence head after the network's own training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from longilesion.config import InferenceSettings
from longilesion.ensemble import load_ensemble, read_manifest, save_bundle
from longilesion.errors import InputError
from longilesion.networks import build_network
from longilesion.networks.backbone import LocalPresence
from test.unit.builders import model_settings
from test.unit.training_runs import few_pairs
from training.presence import Arguments, Judged, fit_presence, fitted_head, presence_threshold, unseen_origins
from training.recipe import DataSettings, PresenceSettings, Recipe


def judged(head: LocalPresence, count: int, *, seed: int) -> Judged:
    """Lesions of noise, whose last feature is high where they are present."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 2, head.layers[0].in_features, generator=generator)
    present = torch.rand(count, generator=generator) < 0.5
    features[..., -1] += 6.0 * present[:, None]
    return Judged(features=features, present=present)


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
    contrary = Judged(features=contrary.features, present=~contrary.present)
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


def test_no_head_is_fitted_to_a_patient_that_it_is_judged_by() -> None:
    origins = ["ann", "bob", "cas", "dee", "eve", "bob", "dee", "eve", "fay", "gus"]
    unseen = unseen_origins(origins).tolist()
    assert [origin for origin, is_unseen in zip(origins, unseen, strict=True) if is_unseen] == ["gus"]
    with pytest.raises(InputError, match="1 patient or pair to fit the presence to; expected at least two"):
        unseen_origins(["ann", "ann"])
