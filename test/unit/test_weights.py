from pathlib import Path

import pytest
import torch

from longilesion.bundle import Member, save_members
from longilesion.errors import InputError
from longilesion.networks import build_network
from test.unit.builders import dual_encoder, model_settings
from training.weights import load_weights

SETTINGS = model_settings(shape_zyx=(16, 16, 16), network=dual_encoder())
OTHER = SETTINGS.with_views(("x",))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Three networks in two members."""
    torch.manual_seed(1)
    members = [
        Member(settings=settings, networks=tuple(build_network(settings) for _ in range(count)), weight=1.0)
        for settings, count in ((SETTINGS, 2), (OTHER, 1))
    ]
    save_members(tmp_path / "bundle", members, SETTINGS.inference.thresholds, provenance={"licence": "none"})
    return tmp_path / "bundle"


@pytest.mark.parametrize(
    ("given", "number"),
    [("", 0), ("fold_0.safetensors", 0), ("fold_1.safetensors", 1), ("fold_2.safetensors", 2)],
)
def test_weights_are_those_of_the_first_network_or_of_the_file(bundle: Path, given: str, number: int) -> None:
    torch.manual_seed(1)
    expected = [build_network(SETTINGS).state_dict() for _ in range(3)][number]
    network = build_network(SETTINGS)
    load_weights(network, bundle / given, SETTINGS)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-3, rtol=1e-3)


def test_file_that_is_none_of_the_bundles_networks_is_refused(bundle: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"fold_7\.safetensors: not a network of .*bundle; expected one of fold_0\.safetensors, fold_1\.saf",
    ):
        load_weights(build_network(SETTINGS), bundle / "fold_7.safetensors", SETTINGS)
