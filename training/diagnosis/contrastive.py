"""Asymmetric contrastive loss of lesions (LIDIA, eq. 3 to 5), and the memory bank of those seen before."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, distributed, nn


def contrastive_loss(
    embeddings: Float32[Tensor, "lesions e"],
    classes: Int64[Tensor, " lesions"],
    remembered: tuple[Float32[Tensor, "entries e"], Int64[Tensor, " entries"]],
    *,
    rare: int | None,
    temperature: float,
) -> Float32[Tensor, ""]:
    """The mean loss of a batch's lesions, contrasted with each other and with remembered ones; 0 where none is.

    A common lesion is attracted by all others of its class and repelled by all of other classes, rare ones included
    (eq. 4; its A(x) is every lesion but x). The printed equation lacks the minus of supervised contrastive learning. A
    rare lesion is repelled by the common ones alone (eq. 5), so that nothing draws rare lesions together. Lesions
    without a partner, common ones alone in their class and rare ones without a common one, contribute nothing.
    """
    everything, labels = torch.cat((embeddings, remembered[0])), torch.cat((classes, remembered[1]))
    similarity = embeddings @ everything.T / temperature
    other = ~torch.eye(*similarity.shape, dtype=torch.bool, device=similarity.device)
    # No lesion has class 0.
    common = labels != (rare or 0)
    positive = other & common & (classes[:, None] == labels)
    attracted, repelled = positive.any(1), ~common[: len(classes)] & common.any()
    logarithms = similarity[attracted] - _log_sum(similarity[attracted], other[attracted])
    pairs = positive[attracted]
    losses = torch.cat(
        (
            -(logarithms * pairs).sum(1) / pairs.sum(1),
            _log_sum(similarity[repelled], common.expand_as(other)[repelled])[:, 0],
        )
    )
    return losses.sum() / max(len(losses), 1)


def _log_sum(similarity: Tensor, chosen: Tensor) -> Float32[Tensor, "lesions 1"]:
    """The logarithm of the summed exponentials of the chosen similarities of each row, which has some."""
    return similarity.masked_fill(~chosen, -torch.inf).logsumexp(1, keepdim=True)


class MemoryBank(nn.Module):
    """Embeddings and classes of the last lesions, first in, first out; the same in all processes.

    They are buffers, and so part of a checkpoint. Class 0 marks a free place.
    """

    embeddings: Tensor
    classes: Tensor
    added: Tensor

    def __init__(self, entries: int, features: int) -> None:
        """An empty bank."""
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(entries, features))
        self.register_buffer("classes", torch.zeros(entries, dtype=torch.long))
        self.register_buffer("added", torch.zeros((), dtype=torch.long))

    def contents(self) -> tuple[Float32[Tensor, "entries e"], Int64[Tensor, " entries"]]:
        """Copies of what is remembered, which stay as they are when more is added."""
        is_taken = self.classes > 0
        return self.embeddings[is_taken], self.classes[is_taken]

    @torch.no_grad()
    def add(self, embeddings: Float32[Tensor, "lesions e"], classes: Int64[Tensor, " lesions"]) -> None:
        """Remembers what all processes have, in their order; all of them have to call this.

        Embeddings that are no numbers, of a step that is skipped, are left out: they would spoil all later losses.
        """
        good = embeddings.isfinite().all(1)
        embeddings, classes = _gathered(embeddings[good], classes[good])
        self.added += len(classes)
        last = int(self.added)
        kept = min(len(classes), len(self.classes))
        places = torch.arange(last - kept, last, device=self.classes.device) % len(self.classes)
        self.embeddings[places], self.classes[places] = (
            embeddings[len(classes) - kept :],
            classes[len(classes) - kept :],
        )


def _gathered(embeddings: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """What all processes have, which may be different numbers of lesions."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return embeddings, classes
    shares: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, (embeddings.cpu(), classes.cpu()))
    both = (torch.cat(parts).to(embeddings.device) for parts in zip(*shares, strict=True))
    return next(both), next(both)
