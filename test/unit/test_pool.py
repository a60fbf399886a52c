"""Batches of a pool: which samples a step takes, how often each is seen, and how they are mirrored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longilesion.networks.interface import NetworkInput
from test.unit.builders import model_settings
from training.batch import Batch
from training.pool import pooled
from training.recipe import AugmentationSettings, DataSettings, Recipe, SpatialAugmentation

_SHAPE = (8, 8, 8)
_CPU = torch.device("cpu")


def recipe_of(*, batch_size: int, reuse: int, pool: int, axes: tuple[str, ...] = ()) -> Recipe:
    return Recipe(
        name="pool",
        steps=1,
        batch_size=batch_size,
        data=DataSettings(reuse=reuse, pool=pool),
        augmentation=AugmentationSettings(joint=SpatialAugmentation(mirror_axes=axes)),
        model=model_settings(),
    )


def drawn(recipe: Recipe, steps: int) -> Iterator[Batch]:
    """Batches of random maps whose samples have numbers, in their origins and in whether they are there."""
    generator = torch.Generator().manual_seed(3)
    size = recipe.drawn().batch_size
    for step in range(steps):
        maps = torch.rand((size, 2, *_SHAPE), generator=generator)
        numbers = range(step * size, (step + 1) * size)
        yield Batch(
            input=NetworkInput(
                followup=maps,
                baseline=2 * maps,
                has_baseline=torch.ones(size, dtype=torch.bool),
                prior_mask=maps[:, :1],
            ),
            target=maps[:, :1],
            present=torch.tensor([number % 2 == 0 for number in numbers]),
            origins=tuple(str(number) for number in numbers),
            skipped=(f"damaged {step}",),
        )


def taken(recipe: Recipe, steps: int, *, seed: int = 0, first_step: int = 0) -> list[Batch]:
    return list(pooled(drawn(recipe, steps), recipe, device=_CPU, seed=seed, first_step=first_step))


@given(own=st.integers(1, 3), reuse=st.integers(1, 4), more=st.integers(0, 20), steps=st.integers(1, 30))
def test_every_step_takes_different_samples_of_those_that_the_pool_has_room_for(
    own: int, reuse: int, more: int, steps: int
) -> None:
    recipe = recipe_of(batch_size=own * reuse, reuse=reuse, pool=own * reuse + more)
    room = recipe.data.pool // own
    for step, batch in enumerate(taken(recipe, steps)):
        numbers = [int(origin) for origin in batch.origins]
        assert len(set(numbers)) == len(numbers) == own * min(reuse, step + 1)
        assert min(numbers) >= (step + 1 - room) * own
        assert max(numbers) < (step + 1) * own
        assert batch.skipped == (f"damaged {step}",)
        assert batch.present.tolist() == [number % 2 == 0 for number in numbers]


def test_samples_are_seen_as_often_as_the_recipe_says() -> None:
    recipe = recipe_of(batch_size=8, reuse=4, pool=40)
    seen = Counter(origin for batch in taken(recipe, 600) for origin in batch.origins)
    in_the_middle = [seen[str(number)] for number in range(200, 1000)]
    assert sum(in_the_middle) / len(in_the_middle) == pytest.approx(4, abs=0.3)


@given(axes=st.sets(st.sampled_from("zyx")), seed=st.integers(0, 1000))
def test_maps_and_target_are_mirrored_alike_along_the_recipes_axes_only(axes: set[str], seed: int) -> None:
    recipe = recipe_of(batch_size=2, reuse=2, pool=4, axes=tuple(sorted(axes)))
    original = {origin: batch.target[place] for batch in drawn(recipe, 6) for place, origin in enumerate(batch.origins)}
    for batch in taken(recipe, 6, seed=seed):
        torch.testing.assert_close(batch.input.followup[:, :1], batch.target)
        torch.testing.assert_close(batch.input.baseline[:, :1], 2 * batch.target)
        torch.testing.assert_close(batch.input.prior, batch.target)
        for place, origin in enumerate(batch.origins):
            views = [[]]
            for axis in axes:
                views += [[*view, 1 + "zyx".index(axis)] for view in list(views)]
            assert any(torch.equal(batch.target[place], original[origin].flip(view)) for view in views)


def test_mirroring_changes_from_step_to_step() -> None:
    recipe = recipe_of(batch_size=1, reuse=1, pool=1, axes=("z", "y", "x"))
    steps = zip(taken(recipe, 200), drawn(recipe, 200), strict=True)
    unchanged = sum(torch.equal(batch.target, own.target) for batch, own in steps)
    # One of the eight mirrorings changes nothing: 25 of 200 on average.
    assert 10 <= unchanged <= 45


def test_steps_depend_on_the_seed_and_on_their_number() -> None:
    recipe = recipe_of(batch_size=4, reuse=4, pool=20, axes=("x",))
    one, again, other, later = (
        [batch.origins for batch in taken(recipe, 30, **chosen)] for chosen in ({}, {}, {"seed": 1}, {"first_step": 5})
    )
    assert one == again
    assert one != other
    assert one != later


@pytest.mark.parametrize(
    ("batch_size", "reuse", "pool", "said"),
    [(6, 4, 12, "a multiple of data.reuse \\(4\\), not 6"), (8, 4, 7, "at least batch_size \\(8\\), not 7")],
)
def test_a_pool_that_steps_cannot_be_taken_from_is_refused(batch_size: int, reuse: int, pool: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recipe_of(batch_size=batch_size, reuse=reuse, pool=pool)


def test_workers_draw_what_is_new_of_a_batch() -> None:
    recipe = recipe_of(batch_size=24, reuse=12, pool=100)
    assert recipe.drawn().batch_size == 2
    assert recipe.drawn().data.reuse == 1
    without = recipe_of(batch_size=24, reuse=12, pool=0)
    assert without.drawn() == without
