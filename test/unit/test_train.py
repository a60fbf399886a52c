import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from longilesion.ensemble import load_ensemble, read_manifest
from longilesion.errors import InputError
from longilesion.networks import build_network
from test.unit.builders import dual_encoder, model_settings, random_input
from test.unit.synthetic import block, pair
from training.recipe import OptimizerSettings, read_recipe
from training.train import Arguments, _averaging, _learning_rate, initialised, main, train

RECIPE = """
name = "tiny"
steps = 4
batch_size = 2
average_decay = 0.5

[data]
train = ["one"]
validation = ["two"]
reuse = 1

[optimizer]
kind = "{optimizer}"
learning_rate = 1e-3

[model.voi]
shape_zyx = [8, 16, 16]
spacing_zyx_mm = [6.0, 3.0, 3.0]

[model.alignment]
template_radius_mm = 10.0
search_radius_mm = 5.0

[model.encoding]

[model.network]
features_per_stage = [4, 8]
kernel_sizes = [[3, 3, 3], [3, 3, 3]]
strides = [[1, 1, 1], [2, 2, 2]]
blocks_per_stage = [1, 1]
decoder_convolutions = [1]
presence_features = 4
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(optimizer="sgd"))
    return path


@pytest.fixture
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same four pairs over and over."""

    def drawn(source: object, generator: np.random.Generator, *, shapes: object) -> object:
        return pair(int(generator.integers(4)))

    monkeypatch.setattr("training.dataset.synthetic_pair", drawn)
    monkeypatch.setattr("training.train.synthetic_pair", drawn)
    monkeypatch.setattr("training.train.phantom_sources", lambda seeds: (block(),))


def test_average_forgets_the_first_steps_and_then_keeps_its_pace() -> None:
    update = _averaging(0.9)
    average, weight = torch.zeros(1), torch.ones(1)
    update([average], [weight], torch.tensor(2))
    assert float(average) == pytest.approx(1 - 3 / 12)
    average.zero_()
    update([average], [weight], torch.tensor(1000))
    assert float(average) == pytest.approx(0.1)


def test_a_fresh_network_says_that_lesions_are_rare() -> None:
    settings = model_settings(network=dual_encoder(baseline_reconstruction=True))
    network = initialised(build_network(settings)).train()
    with torch.inference_mode():
        output = network(random_input(settings))
    assert output.baseline_logits is not None
    for logits in (*output.lesion_logits, *output.baseline_logits):
        assert float(logits.sigmoid().mean()) < 0.1


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint.pt", weights_only=True)["network"]


# ------------------------------------------------------------------------------------------------------ the whole run


@pytest.mark.usefixtures("_few_pairs")
def test_interrupted_training_resumes_to_its_end_and_gives_a_bundle(
    recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    train(Arguments(recipe=recipe, output=run, workers=0, minutes=0.0))
    assert "stopped at step 1" in caplog.text
    first = weights(run)
    train(Arguments(recipe=recipe, output=run, workers=0))
    assert "resumed from step 1" in caplog.text
    assert "validation at step 4: Dice" in caplog.text
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 4
    assert any(not torch.equal(tensor, first[name]) for name, tensor in weights(run).items())

    ensemble = load_ensemble(run / "bundle", device="cpu", precision="float32")
    assert ensemble.settings == read_recipe(recipe).model
    outline, presence = ensemble.predict(random_input(ensemble.settings))
    assert bool(outline.isfinite().all())
    assert bool(presence.isfinite().all())
    provenance = read_manifest(run / "bundle").provenance
    assert provenance == {"recipe": "tiny", "data": "phantoms", "licence": "research use only"}

    # A finished run stays as it is.
    finished = weights(run)
    train(Arguments(recipe=recipe, output=run, workers=0))
    assert all(torch.equal(tensor, finished[name]) for name, tensor in weights(run).items())


@pytest.mark.gpu
@pytest.mark.usefixtures("_few_pairs")
def test_training_begun_on_the_cpu_goes_on_on_a_gpu(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(Arguments(recipe=recipe, output=run, workers=0, minutes=0.0, device="cpu"))
    begun = weights(run)
    train(Arguments(recipe=recipe, output=run, workers=0, device="cuda"))
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 4
    assert any(not torch.equal(tensor.cpu(), begun[name]) for name, tensor in weights(run).items())
    load_ensemble(run / "bundle", device="cpu")


@pytest.mark.usefixtures("_few_pairs")
def test_bundle_holds_the_averaged_weights(recipe: Path, tmp_path: Path) -> None:
    # Steps so long that the averages cannot be mistaken for the last weights.
    recipe.write_text(RECIPE.format(optimizer="adamw").replace("learning_rate = 1e-3", "learning_rate = 0.2"))
    train(Arguments(recipe=recipe, output=tmp_path / "run", workers=0, steps=3))
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    (network,) = load_ensemble(tmp_path / "run" / "bundle", device="cpu", precision="float32").networks
    name = "fusion.followup.0.weight"
    bundled, averaged = network.state_dict()[name], state["average"][f"module.{name}"]
    torch.testing.assert_close(bundled, averaged, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(averaged, state["network"][name], atol=1e-2)


@pytest.mark.usefixtures("restored_logging")
def test_data_folder_without_the_recipes_volumes_is_refused(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(recipe), "--data", str(tmp_path), "--output", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", arguments)
    assert main() == 1
    assert "no one/ct.nii.gz; expected one such file for each of one" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------ learning rate


def test_learning_rate_falls_as_a_polynomial() -> None:
    settings = OptimizerSettings(learning_rate=0.01, decay_exponent=0.9)
    rates = [_learning_rate(step, 10, settings) for step in range(10)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[5] == pytest.approx(0.01 * 0.5**0.9)
    assert rates[9] == pytest.approx(0.01 * 0.1**0.9)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_holds_a_fraction_of_the_rate() -> None:
    settings = OptimizerSettings(learning_rate=0.01, warmup_steps=3, warmup_factor=0.1)
    rates = [_learning_rate(step, 10, settings) for step in range(5)]
    plain = [_learning_rate(step, 10, OptimizerSettings(learning_rate=0.01)) for step in range(5)]
    ratios = [rate / full for rate, full in zip(rates, plain, strict=True)]
    assert ratios == pytest.approx([0.1, 0.1, 0.1, 1, 1])


def test_longinet_is_trained_as_published() -> None:
    optimizer = read_recipe(Path(__file__).parents[2] / "training" / "recipes" / "longinet.toml").optimizer
    assert (optimizer.kind, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.99, 3e-5)
    assert (optimizer.learning_rate, optimizer.decay_exponent, optimizer.warmup_factor) == (2.5e-3, 0.9, 0.1)


# ------------------------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 4", "steps = 0", "tiny.toml: steps: "),
        ("steps = 4", "steps = ", "tiny.toml: Invalid value"),
        ("steps = 4", "stops = 4", "tiny.toml: steps: Field required"),
        ("reuse = 1", "reuse = 1\ncolour = 3", "tiny.toml: data.colour: Extra inputs"),
        ('kind = "sgd"', 'kind = "lion"', "tiny.toml: optimizer.kind: "),
        ("shape_zyx = [8, 16, 16]", "shape_zyx = [9, 16, 16]", "9 along z is not a multiple of the network's 2"),
        (
            "reuse = 1",
            "reuse = 1\n[jitter]\nshape_zyx = [8, 9, 16]",
            "jitter.shape_zyx: 9 along y is not a multiple of the network's 2",
        ),
        (
            "decoder_convolutions = [1]",
            "decoder_convolutions = [1, 1]",
            "decoder_convolutions has 2 entries, expected 1",
        ),
    ],
)
def test_wrong_recipe_is_refused_in_one_line(recipe: Path, old: str, new: str, message: str) -> None:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))
    with pytest.raises(InputError) as caught:
        read_recipe(recipe)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_recipe_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml.*; expected a TOML recipe$"):
        read_recipe(tmp_path / "none.toml")


def test_defaults_are_those_of_the_paper() -> None:
    settings = OptimizerSettings()
    assert (settings.kind, settings.learning_rate, settings.momentum) == ("sgd", 2.5e-3, 0.99)
    assert math.isclose(settings.weight_decay, 3e-5)
