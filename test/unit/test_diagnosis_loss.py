"""The loss of a model of lesion types, its parts by hand and by torch, and batches in which something is missing."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import FocalLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, cross_entropy, normalize

from longilesion.networks.lesion_queries import QueryOutput, QueryPrediction
from training.diagnosis.class_loss import class_loss, focal_loss
from training.diagnosis.contrastive import MemoryBank
from training.diagnosis.loss import DiagnosisLoss, LesionTargets, diagnosis_loss, matched_lesions
from training.diagnosis.mask_loss import mask_loss
from training.diagnosis.semantic_loss import semantic_loss
from training.diagnosis.settings import DiagnosisLossSettings

CLASSES, QUERIES, FEATURES, RARE = 4, 5, 6, 3
SIDE, COARSE = 8, 4
SETTINGS = DiagnosisLossSettings(points=64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cubes(*samples: dict[int, int]) -> LesionTargets:
    """Per sample, lesions of 2 x 2 x 2 voxels by number of place, on the diagonal, and their classes."""
    semantic = torch.zeros(len(samples), SIDE, SIDE, SIDE, dtype=torch.long)
    masks = []
    for sample, lesions in zip(semantic, samples, strict=True):
        own = torch.zeros(len(lesions), SIDE, SIDE, SIDE, dtype=torch.bool)
        for mask, (place, class_) in zip(own, lesions.items(), strict=True):
            box = slice(2 * place, 2 * place + 2)
            mask[box, box, 2 * (place % 4) : 2 * (place % 4) + 2] = True
            sample[mask] = class_
        masks.append(own)
    classes = tuple(torch.tensor(list(lesions.values()), dtype=torch.long) for lesions in samples)
    return LesionTargets(semantic=semantic, masks=tuple(masks), classes=classes)


def random_output(batch: int, *, layers: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> QueryOutput:
    """Logits and embeddings that are leaves, to have gradients."""
    generator = seeded(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator).to(dtype).requires_grad_()

    return QueryOutput(
        semantic_logits=drawn(CLASSES, SIDE, SIDE, SIDE),
        layers=tuple(
            QueryPrediction(class_logits=drawn(QUERIES, CLASSES), mask_logits=drawn(QUERIES, COARSE, COARSE, COARSE))
            for _ in range(layers)
        ),
        embeddings=drawn(QUERIES, FEATURES) if layers else None,
    )


def leaves(output: QueryOutput) -> list[Tensor]:
    layers = [tensor for layer in output.layers for tensor in (layer.class_logits, layer.mask_logits)]
    return [output.semantic_logits, *layers, *([] if output.embeddings is None else [output.embeddings])]


def loss_of(
    output: QueryOutput,
    targets: LesionTargets,
    settings: DiagnosisLossSettings = SETTINGS,
    *,
    bank: MemoryBank | None = None,
    lesions: float | None = None,
) -> DiagnosisLoss:
    return diagnosis_loss(output, targets, settings, rare=RARE, bank=bank, generator=seeded(), lesions=lesions)


def part_of(output: QueryOutput, targets: LesionTargets, part: slice) -> tuple[QueryOutput, LesionTargets]:
    assert output.embeddings is not None
    layers = tuple(
        QueryPrediction(class_logits=layer.class_logits[part], mask_logits=layer.mask_logits[part])
        for layer in output.layers
    )
    return (
        QueryOutput(semantic_logits=output.semantic_logits[part], layers=layers, embeddings=output.embeddings[part]),
        LesionTargets(semantic=targets.semantic[part], masks=targets.masks[part], classes=targets.classes[part]),
    )


# ------------------------------------------------------------------------------------------------------------ parts


def test_mask_costs_what_the_formula_says() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, -3.0]])
    truth = torch.tensor([[True, False, False, True]])
    probability = logits.sigmoid()
    dice = (2 * float(probability[truth].sum()) + 1) / (float(probability.sum()) + 2 + 1)
    expected = float(binary_cross_entropy(probability, truth.float())) + 1 - dice
    assert float(mask_loss(logits, truth)) == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_monais(gamma: float) -> None:
    logits, classes = 3 * torch.randn(2, 7, 4, generator=seeded()), torch.randint(0, 4, (2, 7), generator=seeded(1))
    reference = FocalLoss(gamma=gamma, use_softmax=True, to_onehot_y=True, reduction="none")
    expected = reference(logits.movedim(-1, 1), classes[:, None]).sum(1)
    torch.testing.assert_close(focal_loss(logits, classes, gamma=gamma), expected)


def test_focal_loss_learns_from_a_query_that_is_sure() -> None:
    logits = torch.tensor([[[200.0, 0.0, 0.0], [200.0, 0.0, 0.0]]], requires_grad=True)
    focal_loss(logits, torch.tensor([[0, 1]]), gamma=0.5).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0], torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]))


def test_cross_entropy_of_classes_is_torchs_weighted_mean() -> None:
    logits, classes = torch.randn(2, 5, 4, generator=seeded()), torch.tensor([[0, 1, 0, 0, 3], [0, 0, 2, 0, 0]])
    settings = DiagnosisLossSettings(classification_loss="cross_entropy", no_lesion_weight=0.2)
    expected = cross_entropy(logits.flatten(0, 1), classes.flatten(), weight=torch.tensor([0.2, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(class_loss(logits, classes, settings, lesions=3), expected)
    focal = class_loss(logits, classes, DiagnosisLossSettings(no_lesion_weight=0.2), lesions=3)
    assert float(focal) < float(expected)


def test_semantic_output_costs_what_the_formulas_say() -> None:
    # Two classes of lesions, undecided everywhere; the one that is there fills 8 of 512 voxels, in one of two samples.
    targets, undecided = cubes({0: 1}, {}), torch.zeros(2, 3, SIDE, SIDE, SIDE)
    dice = 1 - (2 * 8 / 3 + 1) / (SIDE**3 / 3 + 8 + 1)
    assert float(semantic_loss(undecided, targets.semantic)) == pytest.approx(math.log(3) + dice / 2, rel=1e-5)


def test_dice_runs_over_the_types_that_are_there() -> None:
    targets = cubes({0: 1, 2: 2})
    sure = 40.0 * torch.nn.functional.one_hot(targets.semantic, CLASSES).movedim(-1, 1)
    assert float(semantic_loss(sure, targets.semantic)) == pytest.approx(0, abs=1e-5)
    # One type is called another, of which the window has none: one Dice of two is lost, and no third one counts.
    confused = sure[:, [0, 3, 2, 1]]
    voxels = 40.0 * 8 / SIDE**3
    assert float(semantic_loss(confused, targets.semantic)) == pytest.approx(voxels + (1 - 1 / 9) / 2, rel=1e-4)


# ------------------------------------------------------------------------------------------------------------ whole


def right_output(targets: LesionTargets, order: list[int], *, strength: float = 20.0) -> QueryOutput:
    """The truth of one sample, said by the queries in that order."""
    (masks,), (classes,) = targets.masks, targets.classes
    class_logits = torch.zeros(1, QUERIES, CLASSES)
    class_logits[..., 0] = strength
    mask_logits = torch.full((1, QUERIES, SIDE, SIDE, SIDE), -strength)
    for query, mask, class_ in zip(order, masks, classes, strict=False):
        class_logits[0, query, 0], class_logits[0, query, class_] = 0.0, strength
        mask_logits[0, query][mask] = strength
    semantic = 2 * strength * torch.nn.functional.one_hot(targets.semantic, CLASSES).movedim(-1, 1)
    embeddings = torch.eye(QUERIES, FEATURES)[None]
    layers = (QueryPrediction(class_logits=class_logits, mask_logits=mask_logits),)
    return QueryOutput(semantic_logits=semantic, layers=layers, embeddings=embeddings)


def test_right_answer_costs_nothing_in_whatever_order_it_is_given() -> None:
    targets = cubes({0: 1, 2: 2, 3: RARE})
    for order in ([0, 1, 2], [4, 0, 3]):
        loss = loss_of(right_output(targets, order), targets)
        for name in ("mask", "classification", "semantic"):
            assert float(loss.parts[name]) == pytest.approx(0, abs=1e-4)
        # Embeddings are those of the matched queries, beside the classes of their lesions.
        matched = dict(zip(loss.embeddings.argmax(1).tolist(), loss.classes.tolist(), strict=True))
        assert matched == dict(zip(order, [1, 2, RARE], strict=True))


def test_permuted_queries_cost_the_same() -> None:
    targets, output, order = cubes({0: 1, 1: 2}, {3: RARE}), random_output(2), torch.tensor([3, 1, 4, 0, 2])
    assert output.embeddings is not None
    permuted = QueryOutput(
        semantic_logits=output.semantic_logits,
        layers=tuple(
            QueryPrediction(class_logits=layer.class_logits[:, order], mask_logits=layer.mask_logits[:, order])
            for layer in output.layers
        ),
        embeddings=output.embeddings[:, order],
    )
    one, other = loss_of(output, targets), loss_of(permuted, targets)
    for name, part in one.parts.items():
        torch.testing.assert_close(other.parts[name], part)


def test_parts_are_weighted_and_layers_averaged() -> None:
    targets, output = cubes({0: 1, 1: 2}, {3: RARE}), random_output(2)
    unit = DiagnosisLossSettings(points=64, mask=1, classification=1, contrastive=1, semantic=1)
    # The same costs, and so the same matches.
    weighted = unit.model_copy(update={"contrastive": 0.3, "semantic": 0.2})
    one, other = loss_of(output, targets, unit), loss_of(output, targets, weighted)
    for name, weight in {"mask": 1, "classification": 1, "contrastive": 0.3, "semantic": 0.2}.items():
        torch.testing.assert_close(other.parts[name], weight * one.parts[name])
    torch.testing.assert_close(other.total, sum(other.parts.values()))
    alone = [
        loss_of(
            QueryOutput(semantic_logits=output.semantic_logits, layers=(layer,), embeddings=output.embeddings), targets
        )
        for layer in output.layers
    ]
    for name in ("mask", "classification"):
        torch.testing.assert_close(
            loss_of(output, targets).parts[name], torch.stack([each.parts[name] for each in alone]).mean()
        )


@pytest.mark.parametrize(
    "samples",
    [
        ({0: 1, 1: 2}, {3: RARE}),
        ({0: 1}, {}),
        ({}, {}),
        ({0: 1},),
        ({0: RARE, 1: RARE}, {2: RARE}),
        ({place: 1 + place % 3 for place in range(4)} | {place: 1 for place in (-1, -2, -3)}, {0: 2}),
    ],
    ids=["some", "none in one", "none", "a single one", "rare ones", "more than queries"],
)
@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_batch_has_a_loss_and_gradients(
    samples: tuple[dict[int, int], ...], layers: int, dtype: torch.dtype
) -> None:
    targets, output = cubes(*samples), random_output(len(samples), layers=layers, dtype=dtype)
    bank = MemoryBank(4, FEATURES)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(output, targets, bank=bank)
        for tensor in leaves(output):
            tensor.grad = None
        loss.total.backward()
        assert all(part.dtype == torch.float32 for part in loss.parts.values())
        assert bool(loss.total.isfinite())
        # All weights of a network have a gradient, as processes that exchange them expect.
        assert all(tensor.grad is not None and bool(tensor.grad.isfinite().all()) for tensor in leaves(output))
        assert not loss.embeddings.requires_grad
        if layers:
            bank.add(loss.embeddings, loss.classes)
    assert set(loss.parts) == ({"mask", "classification", "contrastive", "semantic"} if layers else {"semantic"})
    assert len(loss.classes) == (matched_lesions(targets, QUERIES) if layers else 0)


def test_bank_is_contrasted_with_and_stays_as_it_is() -> None:
    targets, output, bank = cubes({0: 1}), random_output(1), MemoryBank(4, FEATURES)
    alone = loss_of(output, targets, bank=bank)
    assert float(alone.parts["contrastive"].detach()) == 0
    bank.add(normalize(torch.ones(2, FEATURES), dim=1), torch.tensor([1, 2]))
    before = {name: tensor.clone() for name, tensor in bank.state_dict().items()}
    assert float(loss_of(output, targets, bank=bank).parts["contrastive"].detach()) > 0
    for name, tensor in bank.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_mean_of_two_processes_is_the_loss_of_the_whole_batch() -> None:
    targets, output = cubes({0: 1, 1: 2, 2: 1}, {}, {3: RARE}, {}), random_output(4)
    # Points differ, since each process draws its own: all answers are alike wherever they are.
    output = QueryOutput(
        semantic_logits=output.semantic_logits,
        layers=tuple(
            QueryPrediction(
                class_logits=layer.class_logits,
                mask_logits=layer.mask_logits[..., :1, :1, :1].expand_as(layer.mask_logits),
            )
            for layer in output.layers
        ),
        embeddings=output.embeddings,
    )
    inside = DiagnosisLossSettings(points=64, foreground_share=1.0)
    lesions = matched_lesions(targets, QUERIES) / 2
    whole = loss_of(output, targets, inside).parts
    shares = [part_of(output, targets, part) for part in (slice(2), slice(2, 4))]
    parts = [loss_of(said, truth, inside, lesions=lesions).parts for said, truth in shares]
    for name in ("mask", "semantic", "classification"):
        torch.testing.assert_close(sum(part[name] for part in parts) / 2, whole[name], msg=name)


def test_output_that_is_no_number_has_no_loss() -> None:
    output = random_output(1)
    with torch.no_grad():
        output.layers[0].mask_logits[0, 0, 0, 0, 0] = float("nan")
        output.layers[0].class_logits[:] = float("nan")
    assert not bool(loss_of(output, cubes({0: 1})).total.isfinite())
