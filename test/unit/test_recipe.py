import math
from pathlib import Path

import pytest

from longilesion.errors import InputError
from longilesion.network_settings import EarlyFusionSettings
from test.unit.training_runs import write_recipe
from training.differences import differences
from training.recipe import OptimizerSettings, Recipe, read_recipe

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


def test_promptable_longiseg_is_trained_as_published() -> None:
    recipe = read_recipe(RECIPES / "promptable_longiseg.toml")
    network, optimizer, jitter, voi = recipe.model.network, recipe.optimizer, recipe.jitter, recipe.model.voi
    assert (recipe.batch_size, recipe.steps, optimizer.gradient_clip) == (2, 250_000, 12.0)
    assert (optimizer.kind, optimizer.learning_rate, optimizer.momentum) == ("sgd", 1e-2, 0.99)
    assert (jitter.shift_voxels, jitter.centre_share) == (4.0, 0.5)
    # Nothing else moves a lattice: its zoom is always 1, and no lesion is sampled again.
    assert (jitter.shift_mm, jitter.unaligned_share, jitter.zoom_factor) == (0.0, 0.0, 1.0)
    assert (voi.zoom_min, voi.zoom_max, voi.unsure_zoom, voi.growth_limit) == (1.0, 1.0, 1.0, 0)
    assert (voi.shape_zyx, recipe.model.alignment.method) == ((112, 224, 224), "clicks")
    assert isinstance(network, EarlyFusionSettings)
    assert (network.unet.encoder, network.unet.blocks_per_stage) == ("residual", (1, 3, 4, 6, 6, 6))
    assert network.unet.features_per_stage == (32, 64, 128, 256, 320, 320)
    assert recipe.model.encoding.click_sigma_voxels == 1.0
    rows = {
        "promptable_longiseg_point": (("image", "click_heatmap"), ()),
        "promptable_longiseg_mask": (("image",), ("lesion_mask",)),
        "promptable_longiseg": (("image", "click_heatmap"), ("image", "lesion_mask", "click_heatmap")),
    }
    for name, channels in rows.items():
        encoding = read_recipe(RECIPES / f"{name}.toml").model.encoding
        assert (encoding.followup_channels, encoding.baseline_channels) == channels
    # Weights of the pretraining have to fit.
    assert read_recipe(RECIPES / "promptable_longiseg_pretraining.toml").model == recipe.model


def test_difference_weighting_is_trained_as_published() -> None:
    recipe = read_recipe(RECIPES / "difference_weighting.toml")
    encoding, optimizer = recipe.model.encoding, recipe.optimizer
    assert (recipe.batch_size, recipe.model.voi.shape_zyx, encoding.z_score) == (2, (128, 160, 128), "voi")
    assert (encoding.followup_channels, encoding.baseline_channels) == (("image",), ("image",))
    assert (optimizer.kind, optimizer.learning_rate, optimizer.momentum) == ("sgd", 1e-2, 0.99)


def test_compact_recipes_of_a_study_differ_in_channels_and_network_alone() -> None:
    base = "compact_concatenation.toml"
    extending = [path for path in RECIPES.glob("*.toml") if f'extends = "{base}"' in path.read_text()]
    assert len(extending) >= 6
    for path in extending:
        assert differing(read_recipe(RECIPES / base), read_recipe(path)) <= {
            "name",
            "model.encoding.followup_channels",
            "model.encoding.baseline_channels",
            "model.network.kind",
            "model.network.fusion",
            "model.network.baseline_reconstruction",
        }


def differing(one: Recipe, other: Recipe) -> set[str]:
    return {name for name, _, _ in differences(one.model_dump(mode="json"), other.model_dump(mode="json"))}


def test_recipe_extends_another_table_by_table(recipe: Path) -> None:
    extending = recipe.with_name("longer.toml")
    extending.write_text('extends = "tiny.toml"\nname = "longer"\nsteps = 9\n[optimizer]\nlearning_rate = 0.5\n')
    read, base = read_recipe(extending), read_recipe(recipe)
    assert differing(base, read) == {"name", "steps", "optimizer.learning_rate"}
    assert (read.name, read.steps, read.optimizer.learning_rate) == ("longer", 9, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "none.toml"', "longer.toml: extends = 'none.toml': No such file"),
        ("extends = 3", "longer.toml: extends = 3; expected the name of a recipe's file"),
        ('extends = "longer.toml"', "longer.toml: extends = 'longer.toml', which extends longer.toml; expected"),
        ('extends = "tiny.toml"\nstops = 3', "longer.toml: stops: Extra inputs"),
        ('extends = "torn.toml"', "longer.toml: extends = 'torn.toml': "),
    ],
)
def test_recipe_that_cannot_extend_another_is_refused_in_one_line(recipe: Path, text: str, message: str) -> None:
    recipe.with_name("torn.toml").write_text("steps = ")
    extending = recipe.with_name("longer.toml")
    extending.write_text(f"{text}\n")
    with pytest.raises(InputError) as caught:
        read_recipe(extending)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


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
