"""LIDIA's network: what it gives in training and outside, its queries, its settings, and the weights' storage."""

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

from longilesion.networks.lesion_queries import LesionQueries, PhaseInput, QueryOutput
from test.unit.lesion_queries import diagnosis_settings, lesion_queries, random_phases

VARIANTS = [{}, {"fusion": "concatenation"}, {"stem_zyx": (1, 2, 2)}, {"mask_level": 1}, {"encoder": "residual"}]


def sum_of(output: QueryOutput) -> torch.Tensor:
    """Something of everything, to be differentiated."""
    parts = [output.semantic_logits]
    for layer in output.layers:
        parts += [layer.class_logits, layer.mask_logits]
    if output.embeddings is not None:
        parts.append(output.embeddings)
    weights = torch.Generator().manual_seed(0)
    return sum((part.float() * torch.rand(part.shape, generator=weights)).mean() for part in parts)


def seen(network: LesionQueries, batch: PhaseInput) -> QueryOutput:
    with torch.inference_mode():
        return network.eval()(batch)


@pytest.mark.parametrize("layers", [1, 4])
def test_training_gives_the_prediction_before_and_after_every_layer_and_inference_the_last(layers: int) -> None:
    network, batch = lesion_queries(diagnosis_settings(decoder_layers=layers)), random_phases("NAV", "NAVD")
    trained = network.train()(batch)
    assert len(trained.layers) == layers + 1
    assert trained.embeddings.shape == (2, 3, 5)
    torch.testing.assert_close(trained.embeddings.norm(dim=2), torch.ones(2, 3))
    output = seen(network, batch)
    assert output.embeddings is None
    (last,) = output.layers
    assert torch.equal(last.mask_logits, trained.layers[-1].mask_logits)
    assert torch.equal(last.class_logits, trained.layers[-1].class_logits)
    assert torch.equal(output.semantic_logits, trained.semantic_logits)


@pytest.mark.parametrize(
    ("changes", "masks"),
    [
        ({}, (16, 8, 16)),
        ({"mask_level": 1}, (8, 4, 8)),
        ({"stem_zyx": (1, 2, 2)}, (16, 4, 8)),
        ({"stem_zyx": (2, 1, 2), "strides": ((1, 1, 1), (2, 2, 1), (2, 1, 2)), "mask_level": 1}, (4, 4, 8)),
        ({"strides": ((2, 1, 2), (2, 2, 1), (2, 1, 2))}, (8, 8, 8)),
    ],
)
def test_masks_have_the_size_of_their_level_and_the_semantic_output_that_of_the_input(
    changes: dict[str, object], masks: tuple[int, int, int]
) -> None:
    settings = diagnosis_settings(shape_zyx=(16, 8, 16), clip_hu=((-100.0, 300.0), (0.0, 90.0)), **changes)
    output = seen(lesion_queries(settings), random_phases("NAV", shape_zyx=(16, 8, 16), channels=2))
    assert output.semantic_logits.shape == (1, 4, 16, 8, 16)
    assert output.layers[0].mask_logits.shape == (1, 3, *masks)
    assert output.layers[0].class_logits.shape == (1, 3, 4)


def test_without_queries_the_semantic_output_is_all() -> None:
    network, batch = lesion_queries(diagnosis_settings(queries=0)), random_phases("NAV")
    output = network.train()(batch)
    assert (output.layers, output.embeddings) == ((), None)
    assert not any("decoder" in name or "projection" in name for name in network.state_dict())
    with_queries = lesion_queries(diagnosis_settings()).train()
    with_queries.load_state_dict(network.state_dict(), strict=False)
    assert torch.equal(with_queries(batch).semantic_logits, output.semantic_logits)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("changes", VARIANTS)
def test_gradient_reaches_every_parameter(changes: dict[str, object], autocast: bool) -> None:
    network = lesion_queries(diagnosis_settings(**changes)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        total = sum_of(network(random_phases("NAV", "NAVD", "AD")))
    total.backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []
    # Biases before a norm and those of keys have a gradient of zero.
    zero = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert [name for name in zero if not name.endswith("bias")] == []


@pytest.mark.parametrize("changes", VARIANTS)
def test_batch_of_different_phases_is_each_sample_alone(changes: dict[str, object]) -> None:
    network, batch = lesion_queries(diagnosis_settings(**changes)), random_phases("NAV", "NAVD", "V")
    garbage = batch.phases.where(batch.is_there[:, :, None, None, None, None], 100.0)
    together = seen(network, PhaseInput(phases=garbage, is_there=batch.is_there))
    for number in range(3):
        one = slice(number, number + 1)
        alone = seen(network, PhaseInput(phases=batch.phases[one], is_there=batch.is_there[one]))
        close = {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(together.semantic_logits[one], alone.semantic_logits, **close)
        torch.testing.assert_close(together.layers[0].mask_logits[one], alone.layers[0].mask_logits, **close)
        torch.testing.assert_close(together.layers[0].class_logits[one], alone.layers[0].class_logits, **close)


def test_order_of_the_queries_is_that_of_the_predictions_and_nothing_else() -> None:
    network, batch = lesion_queries(diagnosis_settings(queries=5)), random_phases("NAV", "NAVD")
    before = network.train()(batch)
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.no_grad():
        for parameter in (network.decoder.queries, network.decoder.positions):
            parameter.copy_(parameter[order])
    after = network(batch)
    assert torch.equal(after.semantic_logits, before.semantic_logits)
    torch.testing.assert_close(after.embeddings, before.embeddings[:, order])
    for now, then in zip(after.layers, before.layers, strict=True):
        torch.testing.assert_close(now.class_logits, then.class_logits[:, order], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(now.mask_logits, then.mask_logits[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mask_level", "layers", "voxels"),
    [(0, 4, [2, 16, 128, 2]), (1, 3, [2, 16, 2]), (2, 3, [2, 2, 2]), (0, 2, [2, 16]), (0, 1, [2])],
)
def test_layers_attend_to_the_levels_next_to_that_of_the_masks(mask_level: int, layers: int, voxels: list[int]) -> None:
    settings = diagnosis_settings(
        features_per_stage=(4, 4, 4, 4), shape_zyx=(16, 8, 8), mask_level=mask_level, decoder_layers=layers
    )
    network, regions = lesion_queries(settings), []
    for layer in network.decoder.layers:
        layer.register_forward_pre_hook(lambda _, given, named: regions.append(named["region"]), with_kwargs=True)
    seen(network, random_phases("V", shape_zyx=(16, 8, 8)))
    assert [region.shape[2] for region in regions] == voxels


@pytest.mark.parametrize(
    ("changes", "levels"),
    [
        ({}, (3, 2, 1)),
        ({"attention_level": 0}, (2, 1, 0)),
        ({"attention_level": 2}, (4, 3, 2)),
        ({"attention_level": 4}, (4,)),
        ({"attention_level": 1, "mask_level": 1}, (3, 2, 1)),
        ({"attention_level": 0, "decoder_layers": 2}, (2, 1)),
    ],
)
def test_three_levels_are_attended_to_coarsest_first(changes: dict[str, int], levels: tuple[int, ...]) -> None:
    settings = diagnosis_settings(features_per_stage=(4,) * 5, shape_zyx=(32, 16, 16), **changes)
    network, batch = lesion_queries(settings), random_phases("V", shape_zyx=(32, 16, 16))
    assert network.attended == levels
    assert seen(network, batch).layers[-1].mask_logits.isfinite().all()


def test_predictions_differ_between_layers_and_queries() -> None:
    output = lesion_queries(diagnosis_settings()).train()(random_phases("NAV"))
    masks = torch.stack([layer.mask_logits[0] for layer in output.layers])
    assert len(masks.flatten(2).flatten(0, 1).unique(dim=0)) == 4 * 3


def test_passes_are_equal_to_the_bit() -> None:
    gradients = []
    for _ in range(2):
        network = lesion_queries(diagnosis_settings()).train()
        sum_of(network(random_phases("NAV", "NAVD"))).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    assert torch.equal(*gradients)


def test_weights_are_stored_in_float16() -> None:
    network, batch = lesion_queries(diagnosis_settings()), random_phases("NAV", "NAVD")
    stored = load(save({name: tensor.half() for name, tensor in network.state_dict().items()}))
    torch.manual_seed(1)
    loaded = LesionQueries(diagnosis_settings())
    loaded.load_state_dict(stored)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half())
    ours, theirs = seen(network, batch), seen(loaded, batch)
    assert torch.equal(ours.semantic_logits, theirs.semantic_logits)
    assert torch.equal(ours.layers[0].mask_logits, theirs.layers[0].mask_logits)


def test_bfloat16_gives_about_the_same() -> None:
    network, batch = lesion_queries(diagnosis_settings()), random_phases("NAV", "NAVD")
    exact = seen(network, batch).semantic_logits.softmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = seen(network, batch).semantic_logits.float().softmax(1)
    torch.testing.assert_close(short, exact, rtol=0, atol=0.05)


def test_sample_without_any_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="a sample has no phase"):
        lesion_queries(diagnosis_settings())(random_phases("NAV", ""))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_heads": 5}, "attention_heads is 5; expected a divisor of 12"),
        ({"pyramid_features": 4}, "greater than or equal to 6"),
        ({"mask_level": 2}, "mask_level is 2 of 3 levels; expected one with a coarser level"),
        ({"mask_level": 7}, "mask_level is 7 of 3 levels"),
        ({"attention_level": 3}, "attention_level is 3 of 3 levels; expected one of them"),
        ({"attention_level": 0, "mask_level": 1}, "attention_level is 0, finer than mask_level 1"),
        ({"shape_zyx": (8, 6, 8)}, "6 along y is not a multiple of the network's 4"),
        ({"shape_zyx": (0, 8, 8)}, "0 along z is not a multiple"),
        ({"stem_zyx": (1, 2, 4)}, "8 along x is not a multiple of the network's 16"),
        ({"shape_zyx": (4, 4, 4)}, "one voxel to the network's coarsest level"),
        ({"strides": ((1, 1, 1),)}, "differ in length"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        diagnosis_settings(**changes)
