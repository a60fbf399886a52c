"""Folds by patient, and LongiNet's single split, both drawn from one seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Int
from pydantic import BaseModel, ConfigDict, model_validator

from longilesion.errors import InputError

# LongiNet: "an 80/20 train/validation split (single run; no cross-validation)".
VALIDATION_SHARE = 0.2
FEWEST_PATIENTS = 2


class Members(BaseModel):
    """Some patients, by their index in the sorted list of patients and by their ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    indices: tuple[int, ...]
    ids: tuple[str, ...]


class Split(BaseModel):
    """Patients for training and for validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Members
    validation: Members


class Folds(BaseModel):
    """The splits of a data set, as folds.json holds them.

    `patients` is the sorted list that indices refer to. `released` holds the splits released with the data, by name;
    the patients of its test split are in none of the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    val_split: float
    patients: tuple[str, ...]
    folds: tuple[Split, ...]
    single: Split
    released: Mapping[str, tuple[str, ...]] = {}

    @model_validator(mode="after")
    def _check_members(self) -> Folds:
        """Every split has to partition the patients, and its indices and ids have to agree."""
        if list(self.patients) != sorted(set(self.patients)):
            raise ValueError("patients are not sorted and distinct")
        for number, split in enumerate((*self.folds, self.single)):
            where = f"fold {number}" if number < len(self.folds) else "the single split"
            members = [*split.train.ids, *split.validation.ids]
            if sorted(members) != list(self.patients):
                raise ValueError(f"{where} does not hold every patient once")
            for part in (split.train, split.validation):
                if part != self._members_of(part.ids):
                    raise ValueError(f"indices and ids of {where} are not the same patients")
        return self

    def split(self, fold: int | None) -> Split:
        """A fold by its number from 0, or the single split for None; raises InputError where there is no such fold."""
        if fold is None:
            return self.single
        if not 0 <= fold < len(self.folds):
            raise InputError(f"fold {fold}; expected 0 to {len(self.folds) - 1}" if self.folds else _no_folds(fold))
        return self.folds[fold]

    def _members_of(self, ids: Sequence[str]) -> Members:
        return members(self.patients, ids)


def members(patients: Sequence[str], ids: Collection[str]) -> Members:
    """The members of the sorted patients with the given ids."""
    chosen = set(ids)
    indices = [index for index, patient in enumerate(patients) if patient in chosen]
    return Members(indices=tuple(indices), ids=tuple(patients[index] for index in indices))


def check_patient_count(count: int, *, folds: int, source: str) -> None:
    """Raises InputError where there are too few patients for the folds, or for a single split."""
    if count < folds:
        raise InputError(
            f"{source}: {count} patients for {folds} folds; expected at least as many patients as folds (see --folds)"
        )
    if count < FEWEST_PATIENTS:
        raise InputError(f"{source}: {count} patients for training and validation; expected at least {FEWEST_PATIENTS}")


def make_folds(
    patients: Collection[str], *, folds: int, seed: int, released: Mapping[str, Sequence[str]] | None = None
) -> Folds:
    """Draws the folds and the single split of some patients; no folds at all where their number is 0.

    The result depends on the sorted ids and the seed, not on the order of the patients.
    """
    # Here, as it takes most of torch's import time, and whoever reads folds does not need it.
    from sklearn.model_selection import KFold, train_test_split

    ordered = tuple(sorted(set(patients)))
    check_patient_count(len(ordered), folds=folds, source="folds")
    indices = np.arange(len(ordered))
    drawn = KFold(n_splits=folds, shuffle=True, random_state=seed).split(indices) if folds else ()
    train, validation = train_test_split(indices, test_size=VALIDATION_SHARE, random_state=seed)
    return Folds(
        seed=seed,
        val_split=VALIDATION_SHARE,
        patients=ordered,
        folds=tuple(_split(ordered, *parts) for parts in drawn),
        single=_split(ordered, train, validation),
        released={name: tuple(ids) for name, ids in (released or {}).items()},
    )


def _split(
    patients: Sequence[str], train: Int[np.ndarray, " train"], validation: Int[np.ndarray, " validation"]
) -> Split:
    named = (members(patients, [patients[index] for index in part]) for part in (train, validation))
    return Split(train=next(named), validation=next(named))


def _no_folds(fold: int) -> str:
    return f"fold {fold}; expected none, as the data were prepared with --folds 0"
