"""A network of another kind is a class, its settings, two table rows, and a recipe: all else asks the interface."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

import process
from longilesion.config import ModelSettings
from longilesion.ensemble import load_ensemble
from longilesion.errors import BundleError, InputError
from longilesion.network_settings import NETWORK_SETTINGS, NetworkSettings
from longilesion.networks import NETWORKS
from longilesion.networks.interface import LesionNetwork, NetworkInput, NetworkOutput
from test.unit.case_folders import write_case
from test.unit.nnunet_folders import plans_of, write_folder
from test.unit.training_runs import RECIPE, arguments, few_pairs
from training.export import Arguments as ExportArguments
from training.export import export
from training.nnunet import read_nnunet
from training.presence import Arguments as PresenceArguments
from training.presence import fit_presence
from training.pretrained import initialise
from training.recipe import read_recipe
from training.run_log import read_log
from training.train import train

MODEL = """
[model.voi]
shape_zyx = [8, 15, 18]
spacing_zyx_mm = [6.0, 3.0, 3.0]
growth_limit = 1
unsure_zoom = 1.0

[model.alignment]
template_radius_mm = 10.0
search_radius_mm = 5.0

[model.encoding]
followup_channels = ["image", "click_heatmap"]
baseline_channels = ["image", "lesion_mask", "click_heatmap"]

[model.network]
kind = "one_layer"
kernel_size = 3

[model.inference]
threshold = 0.0001
mirror_axes = ["x"]
"""


class OneLayerSettings(NetworkSettings):
    kind: Literal["one_layer"] = "one_layer"
    kernel_size: int


class OneLayer(LesionNetwork):
    description = "one convolution of all channels of both time points"

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        channels = settings.encoding.followup_channels + settings.encoding.baseline_channels
        self.layer = nn.Conv3d(settings.encoding.width(channels), 1, settings.network.kernel_size, padding="same")

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        return NetworkOutput(lesion_logits=(self.layer(torch.cat((batch.followup, batch.baseline), dim=1)),))

    def output_layers(self) -> list[nn.Module]:
        return [self.layer]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One that names the new kind, which has its two rows."""
    path = tmp_path_factory.mktemp("one_layer") / "one_layer.toml"
    path.write_text(RECIPE.format(optimizer="adamw") + MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORK_SETTINGS, "one_layer", OneLayerSettings)
        patch.setitem(NETWORKS, "one_layer", OneLayer)
        few_pairs(patch)
        yield path


@pytest.fixture(scope="module")
def run(recipe: Path) -> Path:
    train(arguments(recipe, recipe.with_name("run"), steps=3))
    return recipe.with_name("run")


def test_it_trains_by_the_outline_alone(run: Path) -> None:
    rows = read_log(run / "metrics.csv")
    assert len(rows) == 3
    assert all(row["loss"] == row["outline"] for row in rows)
    # It begins as any: a voxel is hardly ever lesion.
    (network,) = load_ensemble(run / "last", device="cpu").networks
    assert isinstance(network, OneLayer)
    assert network.layer.in_channels == 5
    assert network.layer.bias.item() == pytest.approx(-4, abs=0.1)


@pytest.mark.usefixtures("restored_logging")
def test_it_is_exported_and_segments_a_case_in_the_container(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_log_to_streams", lambda: None)
    export(ExportArguments(bundles=(run,), output=tmp_path / "model"))
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "one convolution of all channels of both time points" in card
    assert "presence" not in card
    case, output, report = write_case(tmp_path / "case"), tmp_path / "output", tmp_path / "report.json"
    given = {"--input": case, "--output": output, "--model": tmp_path / "model", "--report": report, "--device": "cpu"}
    assert process.main([str(word) for pair in given.items() for word in pair]) == 0
    assert len(list(output.rglob("*.mha"))) == 1
    (lesion,) = json.loads(report.read_text())["lesions"]
    # Nothing is said of its presence, and its outline alone decides.
    assert lesion["presence"] is None
    assert lesion["volume_followup_ml"] > 0


def test_presence_head_that_it_lacks_is_not_fitted(recipe: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"last: a one_layer without a presence head; expected one to fit"):
        fit_presence(PresenceArguments(recipe=recipe, bundle=run / "last", output=tmp_path / "new", device="cpu"))


def test_weights_of_an_nnunet_have_no_place_in_it(recipe: Path, tmp_path: Path) -> None:
    settings = read_recipe(recipe).model
    weights = read_nnunet(write_folder(tmp_path / "nnunet", plans_of(), "fold_0/checkpoint_final.pth"))
    with pytest.raises(InputError, match="nothing in a one_layer is an nnU-Net's"):
        initialise(OneLayer(settings), weights, settings)


def test_bundle_of_a_kind_that_is_not_there_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(NETWORK_SETTINGS, "one_layer")
    with pytest.raises(
        BundleError, match=r"settings.json: members.0.settings.network: .*kind is 'one_layer'; expected one of dual"
    ):
        load_ensemble(run / "last", device="cpu")
