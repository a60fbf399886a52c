"""What holds for a network of any kind: a new kind is covered by a row in KINDS."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from longilesion.config import EncodingSettings, InferenceSettings, ModelSettings
from longilesion.ensemble import Ensemble
from longilesion.network_settings import EarlyFusionSettings, JointEncoderSettings, NetworkSettings, UNetSettings
from longilesion.networks import NETWORKS, build_network
from longilesion.networks.fusion import FUSIONS
from longilesion.networks.interface import LesionNetwork, NetworkInput, NetworkOutput
from test.unit.builders import dual_encoder, model_settings, random_input, unet
from training.networks import count, noise
from training.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
CLICKED = EncodingSettings(
    clip_hu=((-1000.0, 400.0), (-160.0, 240.0)),
    followup_channels=("image", "click_heatmap"),
    baseline_channels=("image", "lesion_mask", "click_heatmap"),
)
MASKED = EncodingSettings(followup_channels=("image", "organ_mask"), baseline_channels=("lesion_mask", "organ_mask"))
ALONE = EncodingSettings(followup_channels=("image", "click_heatmap"), baseline_channels=())


def early_fusion(*, presence_features: int = 4, **changes: object) -> EarlyFusionSettings:
    return EarlyFusionSettings(unet=unet(encoder="residual", **changes), presence_features=presence_features)


def joint_encoder(**changes: object) -> JointEncoderSettings:
    small = {
        "features_per_stage": (4, 6),
        "strides": ((1, 2, 2), (2, 1, 1)),
        "joint_features_per_stage": (8,),
        "joint_strides": ((2, 2, 2),),
    }
    return JointEncoderSettings(**{**small, **changes})


def of(network: NetworkSettings, encoding: EncodingSettings = CLICKED) -> ModelSettings:
    return model_settings(encoding=encoding, network=network)


KINDS: Mapping[str, ModelSettings] = {
    "pointwise": of(dual_encoder()),
    "difference": of(dual_encoder(fusion="difference", encoder="residual")),
    "difference without presence": of(dual_encoder(fusion="difference", presence_features=0)),
    "iterative": of(dual_encoder(fusion="iterative")),
    "iterative of masks": of(dual_encoder(fusion="iterative", presence_features=0), MASKED),
    "early fusion": of(early_fusion()),
    "early fusion without presence": of(early_fusion(presence_features=0)),
    "early fusion of image and masks": of(early_fusion(), MASKED),
    "cross-sectional": of(early_fusion(), ALONE),
    "joint encoder": of(joint_encoder()),
    "joint encoder with heads": of(joint_encoder(attention_heads=3), MASKED),
}
every_kind = pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS.keys())


def network_of(settings: ModelSettings) -> LesionNetwork:
    """With weights none of which is 0 or 1."""
    torch.manual_seed(0)
    network = build_network(settings)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def series(settings: ModelSettings) -> NetworkInput:
    """Three lesions: with two earlier time points, with the second of them, and without even a baseline."""
    batch = random_input(settings, 3)
    there = torch.tensor([[True, True], [False, True], [False, False]])
    maps = torch.rand((3, 2, *batch.baseline.shape[1:]), generator=torch.Generator().manual_seed(1))
    has_baseline = torch.tensor([True, True, False])
    shown = batch.changed_baseline(lambda each: each * has_baseline[:, None, None, None, None])
    return replace(
        shown, has_baseline=has_baseline, earlier=maps * there[:, :, None, None, None, None], has_earlier=there
    )


def outputs(network: LesionNetwork, batch: NetworkInput) -> list[torch.Tensor]:
    with torch.inference_mode():
        output = network(batch)
    return [*output.lesion_logits, *(() if output.presence_logit is None else (output.presence_logit,))]


def total(output: NetworkOutput) -> torch.Tensor:
    """A number to which everything that is learned contributes."""
    judged = () if output.presence_logit is None else (output.presence_logit,)
    # Squared, since the sum of normalised features is constant.
    return sum(each.square().sum() for each in (*output.lesion_logits, *(output.baseline_logits or ()), *judged))


def test_every_kind_and_fusion_has_a_row() -> None:
    assert {settings.network.kind for settings in KINDS.values()} == set(NETWORKS)
    assert {getattr(settings.network, "fusion", "pointwise") for settings in KINDS.values()} == set(FUSIONS)


@every_kind
def test_training_gives_a_map_per_output_layer_and_inference_the_finest(settings: ModelSettings) -> None:
    network, batch = network_of(settings), series(settings)
    logits = network.train()(batch).lesion_logits
    shapes = [tuple(level.shape[2:]) for level in logits]
    assert shapes[0] == settings.voi.shape_zyx
    assert shapes == sorted(shapes, reverse=True)
    with torch.inference_mode():
        finest = network.eval()(batch).lesion_logits
    assert [tuple(level.shape) for level in finest] == [(3, 1, *settings.voi.shape_zyx)]
    assert len(list(network.output_layers())) >= len(logits)
    assert all(layer.bias is not None for layer in network.output_layers())


@every_kind
def test_presence_is_an_output_and_a_part_of_the_loss_where_there_is_a_head(settings: ModelSettings) -> None:
    network = network_of(settings)
    output = network(series(settings))
    has_head = bool(getattr(settings.network, "presence_features", 0))
    assert (network.presence is not None) is has_head
    assert ("presence" in network.loss_parts) is has_head
    assert ("presence" in network.description) is has_head
    if not has_head:
        assert output.presence_logit is None
        assert output.presence_features is None
    else:
        assert torch.equal(network.presence(output.presence_features), output.presence_logit)


@every_kind
def test_every_parameter_gets_a_gradient(settings: ModelSettings) -> None:
    network = network_of(settings).train()
    total(network(series(settings))).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        # The norm after a convolution removes its bias.
        if not name.endswith("conv.bias"):
            assert bool(parameter.grad.any()), name


@every_kind
def test_lesion_alone_gives_what_it_gives_among_others(settings: ModelSettings) -> None:
    network, batch = network_of(settings), series(settings)
    together = outputs(network, batch)
    for number in range(3):
        for among, alone in zip(together, outputs(network, batch[number : number + 1]), strict=True):
            torch.testing.assert_close(alone[0], among[number], atol=1e-4, rtol=1e-4)


@every_kind
def test_without_baseline_only_the_followup_matters(settings: ModelSettings) -> None:
    network, batch = network_of(settings), random_input(settings, 2)
    other = replace(batch, baseline=1 - batch.baseline)
    for one, same in zip(*(outputs(network, each.without_baseline()) for each in (batch, other)), strict=True):
        assert torch.equal(one, same)
    if settings.encoding.baseline_channels:
        assert not torch.allclose(outputs(network, batch)[0], outputs(network, other)[0])
        assert not torch.allclose(outputs(network, batch)[0], outputs(network, batch.without_baseline())[0])


@every_kind
def test_features_of_absent_time_points_have_no_influence(settings: ModelSettings) -> None:
    if settings.network.kind == "early_fusion":
        pytest.skip("it knows of an absent time point by its zeros alone")
    network, batch = network_of(settings), series(settings)
    noise_of = torch.Generator().manual_seed(2)
    absent = ~batch.has_baseline[:, None, None, None, None]
    noisy = replace(
        batch,
        baseline=batch.baseline + absent * torch.rand(batch.baseline.shape, generator=noise_of),
        earlier=batch.earlier
        + ~batch.has_earlier[:, :, None, None, None, None] * torch.rand(batch.earlier.shape, generator=noise_of),
    )
    assert not torch.equal(noisy.baseline, batch.baseline)
    torch.testing.assert_close(outputs(network, noisy)[0], outputs(network, batch)[0])


@every_kind
def test_ensemble_that_does_not_use_the_baseline_hides_it(settings: ModelSettings) -> None:
    network, batch = network_of(settings), series(settings)
    unused = settings.model_copy(update={"inference": InferenceSettings(uses_baseline=False)})
    hidden, shown = (
        Ensemble.of(each, (network,), device=torch.device("cpu"), precision=torch.float32)
        for each in (unused, settings)
    )
    for one, same in zip(hidden.predict(batch), shown.predict(batch.without_baseline()), strict=True):
        assert (one is None and same is None) or torch.equal(one, same)


def without_strides(settings: ModelSettings) -> ModelSettings:
    """The same with all strides 1: a convolution of stride 2 begins at one side of an even number of voxels."""
    network = settings.network
    still: dict[str, object] = {
        name: ((1, 1, 1),) * len(getattr(network, name))
        for name in ("strides", "joint_strides")
        if hasattr(network, name)
    }
    if isinstance(getattr(network, "unet", None), UNetSettings):
        stages = len(network.unet.strides)
        still["unet"] = network.unet.model_copy(update={"strides": ((1, 1, 1),) * stages})
    return settings.model_copy(update={"network": network.model_copy(update=still)})


@every_kind
def test_mirrored_weights_give_the_mirrored_outline_of_mirrored_scans(settings: ModelSettings) -> None:
    settings = without_strides(settings)
    network, batch = network_of(settings), series(settings)
    straight = outputs(network, batch)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 5:
                parameter.copy_(parameter.flip(2, 4))
    turned = outputs(network, batch.mirrored([2, 4]))
    torch.testing.assert_close(turned[0], straight[0].flip(2, 4), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(turned[0], straight[0], atol=1e-2)
    for seen, expected in zip(turned[1:], straight[1:], strict=True):
        torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)


def fresh(settings: ModelSettings) -> LesionNetwork:
    torch.manual_seed(0)
    return build_network(settings).eval()


@every_kind
def test_bfloat16_is_close_to_float32(settings: ModelSettings) -> None:
    network, batch = fresh(settings), series(settings)
    exact = outputs(network, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = outputs(network, batch)
    difference = exact[0].sigmoid() - rounded[0].float().sigmoid()
    assert difference.abs().max() < 0.05
    assert difference.abs().mean() < 0.005
    for judged, roughly in zip(exact[1:], rounded[1:], strict=True):
        torch.testing.assert_close(judged, roughly.float(), atol=0.05, rtol=0.05)


@pytest.mark.gpu
@every_kind
def test_float16_on_a_gpu_is_close_to_float32_on_a_cpu(settings: ModelSettings) -> None:
    batch = series(settings)
    exact, rounded = (
        Ensemble.of(settings, (fresh(settings).to(device),), device=torch.device(device), precision=precision).predict(
            batch
        )
        for device, precision in (("cpu", torch.float32), ("cuda", torch.float16))
    )
    for probability, roughly in zip(exact, rounded, strict=True):
        assert (probability is None) is (roughly is None)
        if probability is not None:
            assert (probability - roughly).abs().max() < 0.02


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipes_network_takes_the_recipes_voi(recipe: Path) -> None:
    settings = read_recipe(recipe).model
    nowhere = torch.device("meta")
    with nowhere:
        network = build_network(settings).eval()
    # It sums in float32 on any device but this one.
    network.presence = None
    (logits,) = network(noise(settings, priors=2, device=nowhere)).lesion_logits
    assert tuple(logits.shape) == (1, 1, *settings.voi.shape_zyx)


def test_flops_of_attention_and_convolution_are_those_written_out() -> None:
    settings = of(joint_encoder(), EncodingSettings(followup_channels=("image",), baseline_channels=("image",)))
    # Levels, finest first: voxels of 8 x 8 x 8, 8 x 4 x 4, 4 x 4 x 4 and 2 x 2 x 2.
    full, half, third, joint = 512, 128, 64, 8
    encoders = 2 * (half * 27 * (1 * 4 + 4 * 4) + third * 27 * (4 * 6 + 6 * 6))
    attention = third * 12 * (36 + 12) + 2 * third * third * 12
    bottleneck = joint * 27 * (12 * 8 + 8 * 8)
    ups = third * 8 * 12 + half * 12 * 8 + full * 8 * 4
    blocks = third * 27 * (12 * 12 + 12 * 12) + half * 27 * (16 * 8 + 8 * 8) + full * 27 * (4 * 4 + 4 * 4)
    assert count(settings).flops == 2 * (encoders + attention + bottleneck + ups + blocks + full * 4)
