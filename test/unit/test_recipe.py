import math
from pathlib import Path

import pytest

from longilesion.errors import InputError
from test.unit.training_runs import write_recipe
from training.recipe import OptimizerSettings, read_recipe

RECIPES = Path(__file__).parents[2] / "training" / "recipes"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "tiny.toml")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_that_come_with_the_project_can_be_read(path: Path) -> None:
    assert read_recipe(path).name == path.stem


def test_longinet_is_trained_as_published() -> None:
    recipe = read_recipe(RECIPES / "longinet.toml")
    optimizer, intensity, joint = recipe.optimizer, recipe.augmentation.intensity, recipe.augmentation.joint
    assert (optimizer.kind, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.99, 3e-5)
    assert (optimizer.learning_rate, optimizer.decay_exponent, optimizer.warmup_factor) == (2.5e-3, 0.9, 0.1)
    assert (recipe.batch_size, recipe.precision) == (8, "16-mixed")
    # 1,000 epochs of nnU-Net's 250 steps; three of them warm up.
    assert (recipe.steps, optimizer.warmup_steps) == (250_000, 750)
    assert joint.rotation_deg == 10.0
    assert (intensity.noise, intensity.scale, intensity.shift) == (0.02, 0.2, 0.1)
    assert (intensity.gamma, intensity.blur_voxels) == ((0.8, 1.2), (0.5, 1.0))
    assert (recipe.loss.outline, recipe.loss.cross_entropy) == ("dice_ce", "voi")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 8", "steps = 0", "tiny.toml: steps: "),
        ("steps = 8", "steps = ", "tiny.toml: Invalid value"),
        ("steps = 8", "stops = 4", "tiny.toml: steps: Field required"),
        ("reuse = 1", "reuse = 1\ncolour = 3", "tiny.toml: data.colour: Extra inputs"),
        ('kind = "sgd"', 'kind = "lion"', "tiny.toml: optimizer.kind: "),
        ("shape_zyx = [8, 16, 16]", "shape_zyx = [9, 16, 16]", "9 along z is not a multiple of the network's 2"),
        (
            "drawn_together = 4",
            "drawn_together = 4\n[jitter]\nshape_zyx = [8, 9, 16]",
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
