"""The asymmetric contrastive loss against equations 4 and 5 in plain loops, and the bank of lesions seen before."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, distributed
from torch.nn.functional import normalize

from training.diagnosis.contrastive import MemoryBank, contrastive_loss

RARE, TEMPERATURE = 3, 0.1
NOTHING = (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))


def embedded(count: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)), dim=1)


def loss_of(
    embeddings: Tensor, classes: list[int], remembered: tuple[Tensor, Tensor] = NOTHING, *, rare: int | None = RARE
) -> Tensor:
    return contrastive_loss(
        embeddings, torch.tensor(classes, dtype=torch.long), remembered, rare=rare, temperature=TEMPERATURE
    )


def by_hand(z: np.ndarray, classes: list[int], anchors: int) -> float:
    """The mean of eq. 4, with the minus that its print lacks, and eq. 5 over the first of these lesions."""
    losses = []
    for x in range(anchors):
        exponentials = {a: math.exp(z[x] @ z[a] / TEMPERATURE) for a in range(len(z)) if a != x}
        if classes[x] == RARE:
            common = [exponentials[a] for a in exponentials if classes[a] != RARE]
            if common:
                losses.append(math.log(sum(common)))
            continue
        positive = [a for a in exponentials if classes[a] == classes[x]]
        if positive:
            total = sum(exponentials.values())
            losses.append(-sum(math.log(exponentials[p] / total) for p in positive) / len(positive))
    return sum(losses) / len(losses) if losses else 0.0


@given(
    classes=st.lists(st.integers(1, 4), max_size=7),
    bank=st.lists(st.integers(1, 4), max_size=5),
    seed=st.integers(0, 99),
)
def test_loss_is_that_of_the_equations(classes: list[int], bank: list[int], seed: int) -> None:
    z = embedded(len(classes) + len(bank), seed)
    remembered = (z[len(classes) :], torch.tensor(bank, dtype=torch.long))
    found = loss_of(z[: len(classes)], classes, remembered)
    expected = by_hand(z.double().numpy(), classes + bank, len(classes))
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def gradient(embeddings: Tensor, classes: list[int], remembered: tuple[Tensor, Tensor], rare: int | None) -> Tensor:
    leaf = embeddings.clone().requires_grad_()
    loss_of(leaf, classes, remembered, rare=rare).backward()
    assert leaf.grad is not None
    return leaf.grad


def test_rare_lesions_do_not_attract_each_other() -> None:
    z = embedded(4)
    # Among themselves there is nothing to learn, at all.
    assert torch.equal(gradient(z, [RARE] * 4, (embedded(2, 1), torch.tensor([RARE, RARE])), RARE), torch.zeros(4, 4))
    assert gradient(z, [RARE] * 4, NOTHING, None).abs().max() > 0.1
    # Beside common lesions, what a rare one learns does not depend on where the other rare ones are.
    bank = (embedded(3, 1), torch.tensor([1, 2, 2]))
    moved = torch.cat((z[:1], embedded(3, 2)))
    assert torch.equal(gradient(z, [RARE] * 4, bank, RARE)[0], gradient(moved, [RARE] * 4, bank, RARE)[0])
    assert not torch.allclose(gradient(z, [RARE] * 4, bank, None)[0], gradient(moved, [RARE] * 4, bank, None)[0])


def test_descent_draws_a_class_together_and_pushes_rare_lesions_from_common_ones() -> None:
    z, classes = torch.nn.Parameter(embedded(6)), [1, 1, 2, 2, RARE, RARE]
    before = (z @ z.T).detach()
    for _ in range(100):
        z.grad = None
        loss_of(normalize(z, dim=1), classes).backward()
        with torch.no_grad():
            z -= 0.02 * z.grad
    after = (normalize(z, dim=1) @ normalize(z, dim=1).T).detach()
    assert after[0, 1] > max(0.9, before[0, 1])
    assert after[2, 3] > max(0.9, before[2, 3])
    assert after[4:, :4].max() < 0


@pytest.mark.parametrize("classes", [[], [1], [RARE], [1, 2], [RARE, RARE]])
def test_lesions_without_a_partner_cost_nothing_and_have_a_gradient(classes: list[int]) -> None:
    # Processes exchange the gradients of all weights, which have to be there.
    assert torch.equal(gradient(embedded(len(classes)), classes, NOTHING, RARE), torch.zeros(len(classes), 4))


# ------------------------------------------------------------------------------------------------------ memory bank


@given(numbers=st.lists(st.integers(0, 9), max_size=6), entries=st.integers(1, 5))
def test_bank_holds_the_last_lesions(numbers: list[int], entries: int) -> None:
    bank, classes = MemoryBank(entries, 4), torch.arange(1, sum(numbers) + 1)
    for part in classes.split(numbers):
        bank.add(part[:, None].expand(-1, 4).float(), part)
        embeddings, known = bank.contents()
        assert torch.equal(embeddings[:, 0].long(), known)
    assert sorted(bank.contents()[1].tolist()) == classes[-entries:].tolist()


def test_bank_goes_on_where_a_checkpoint_was_written() -> None:
    bank, resumed = MemoryBank(3, 4), MemoryBank(3, 4)
    bank.add(embedded(2), torch.tensor([1, 2]))
    resumed.load_state_dict({name: tensor.clone() for name, tensor in bank.state_dict().items()})
    for each in (bank, resumed):
        each.add(embedded(2, 1), torch.tensor([3, 4]))
    for one, other in zip(bank.contents(), resumed.contents(), strict=True):
        assert torch.equal(one, other)
    assert sorted(resumed.contents()[1].tolist()) == [2, 3, 4]


def test_lesions_of_a_step_that_went_wrong_are_not_remembered() -> None:
    bank, embeddings = MemoryBank(3, 4), embedded(3)
    embeddings[1, 2] = float("nan")
    bank.add(embeddings, torch.tensor([1, 2, 1]))
    assert bank.contents()[1].tolist() == [1, 1]
    assert bool(bank.contents()[0].isfinite().all())


def test_what_is_remembered_may_change_before_the_gradients_are_computed() -> None:
    bank, z = MemoryBank(2, 4), embedded(2).requires_grad_()
    bank.add(embedded(2, 1), torch.tensor([1, 2]))
    loss = loss_of(z, [1, 2], bank.contents())
    bank.add(z.detach(), torch.tensor([1, 2]))
    loss.backward()
    assert z.grad is not None


def test_processes_have_the_same_bank(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "test.unit.test_contrastive", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one["classes"].tolist() == [4, 4, 5, 3]
    expected = torch.cat((embedded(2, seed=11), embedded(1, seed=20), embedded(1, seed=10)))
    assert torch.equal(one["embeddings"], expected)
    for name, tensor in one.items():
        assert torch.equal(two[name], tensor)


def remember(folder: Path, rank: int) -> None:
    """One of two processes: the first has no lesion in the first step, the second none in the last."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", world_size=2, rank=rank)
    bank = MemoryBank(4, 4)
    for step, count in enumerate((3 * rank, 1 + rank, 1 - rank)):
        bank.add(embedded(count, seed=10 * step + rank), torch.full((count,), 1 + 2 * step + rank))
    torch.save(bank.state_dict(), folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    remember(Path(sys.argv[1]), int(sys.argv[2]))
