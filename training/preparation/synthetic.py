"""Synthetic pairs, or series of them, as cases: drawn from CT volumes, or from phantoms where there are none."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch

from longilesion.errors import InputError
from training.preparation.memory import drawing_bytes
from training.preparation.patient import CaseContent, DataSource, Job, Made
from training.preparation.prepared import CaseEntry
from training.preparation.record import ImageRecord, LeftOut, LesionRecord, Record
from training.synthesis.pairs import SyntheticPair, synthetic_series
from training.synthesis.settings import SynthesisSettings
from training.synthesis.shape_library import ShapeLibrary, read_shape_library
from training.synthesis.sources import Source, find_volumes, load_sources, phantom_sources, volumes_with

_CPU = torch.device("cpu")
# Seeds other than those of the phantoms in training and its evaluation.
_FIRST_PHANTOM = 1000


def find_synthetic(
    data: Path | None,
    *,
    cases: int,
    phantoms: int,
    seed: int,
    settings: SynthesisSettings,
    whole: bool,
    times: int = 2,
    organ: str | None = None,
    shapes: Path | None = None,
    device: torch.device = _CPU,
) -> DataSource:
    """Plans pairs of the volumes of a folder (`<name>/ct.nii.gz`), or of phantoms; volumes alternate.

    With an `organ`, pairs are exams of that organ, of the volumes with its mask; those without a lesion are kept.

    With more than two `times`, each is a series, of which every pair of consecutive time points is a case. The pairs of
    a volume belong to one patient. A pair depends on the seed and its number alone. Raises InputError
    where the folder has no volumes, or the file of lesion shapes cannot be used.
    """
    library = None if shapes is None else read_shape_library(shapes)
    if data is None:
        names = [f"phantom_{_FIRST_PHANTOM * (seed + 1) + number}" for number in range(min(phantoms, cases))]
    else:
        names = find_volumes(data) if organ is None else volumes_with(organ, data)
    memory = {name: drawing_bytes(None if data is None else data / name / "ct.nii.gz") for name in names}
    make = partial(
        _made,
        data=data,
        names=tuple(names),
        seed=seed,
        settings=settings,
        whole=whole,
        times=times,
        organ=organ,
        shapes=shapes,
        device=device,
    )
    jobs = [
        Job(name=_case_id(number), patient=name, memory_bytes=memory[name], make=partial(make, number))
        for number, name in zip(range(cases), cycle(names), strict=False)
    ]
    return DataSource(
        kind="synthetic",
        place="phantoms" if data is None else str(data),
        # A worker keeps the volume that it has read: pairs of the same volume are consecutive.
        jobs=tuple(sorted(jobs, key=lambda job: job.patient)),
        arguments={
            "data": None if data is None else str(data.resolve()),
            "cases": cases,
            "volumes": names,
            "settings": settings.model_dump(mode="json"),
            "whole": whole,
            **({} if times == 2 else {"times": times}),
            **({} if organ is None else {"organ": organ}),
            **({} if library is None else {"shapes": library.description}),
        },
        licence=None if library is None else library.attribution,
    )


@lru_cache(maxsize=1)
def _lenders(data: Path | None, names: tuple[str, ...]) -> tuple[Source, ...]:
    """The volumes with real lesions, of which only the shapes are kept."""
    nothing = np.zeros((1, 1, 1), bool)
    lenders = []
    for name in names:
        if data is not None and (data / name / "lesions.nii.gz").is_file():
            (source,) = load_sources(data, [name])
            lesions = tuple(replace(lesion, mask=nothing) for lesion in source.lesions)
            lenders.append(replace(source, hu=nothing.astype(np.int16), sites={}, organs={}, lesions=lesions))
    return tuple(lenders)


@lru_cache(maxsize=1)
def _library(shapes: Path) -> ShapeLibrary:
    return read_shape_library(shapes)


@lru_cache(maxsize=1)
def _source(data: Path | None, name: str) -> Source:
    if data is not None:
        return load_sources(data, [name])[0]
    return phantom_sources([int(name.rpartition("_")[2])])[0]


def _made(
    number: int,
    *,
    data: Path | None,
    names: tuple[str, ...],
    seed: int,
    settings: SynthesisSettings,
    whole: bool,
    times: int,
    organ: str | None,
    shapes: Path | None,
    device: torch.device,
) -> Made:
    name = names[number % len(names)]
    source = _source(data, name)
    if organ is not None and organ not in source.organs:
        raise InputError(f"{name}: has no mask of {organ}; expected one of {', '.join(sorted(source.organs))}")
    series = synthetic_series(
        source,
        np.random.default_rng((seed, number)),
        times=times,
        shapes=_lenders(data, names),
        library=None if shapes is None else _library(shapes),
        settings=settings,
        whole=whole,
        organ=organ,
        device=device,
    )
    drawn = _case_id(number)
    names_of_pairs = [drawn] if times == 2 else [f"{drawn}_{step}" for step in range(1, times)]
    previous = dict(zip(names_of_pairs, [None, *names_of_pairs], strict=False))
    # A series is broken where a pair shows no lesion and is no case; only a detector learns from such a pair.
    pairs = {
        case_id: pair
        for case_id, pair in zip(names_of_pairs, series.pairs, strict=True)
        if pair.facts or organ is not None
    }
    if not pairs:
        why = LeftOut(reason="pair without lesions", is_error=False)
        return Made(cases=(), record=Record(name=drawn, patient=name, left_out=why))
    record = Record(
        name=drawn,
        patient=name,
        cases=tuple(
            CaseEntry(
                case_id=case_id,
                patient=name,
                lesions=len(pair.facts),
                previous=previous[case_id] if previous[case_id] in pairs else None,
            )
            for case_id, pair in pairs.items()
        ),
        images=tuple(
            ImageRecord(file=case_id, case_id=case_id, scan=f"primary-{time_point}")
            for case_id in pairs
            for time_point in ("baseline", "followup")
        ),
        lesions=tuple(
            LesionRecord(lesion_id=lesion_id, fate=fact.fate, case_id=case_id)
            for case_id, pair in pairs.items()
            for lesion_id, fact in pair.facts.items()
        ),
    )
    cases = tuple(_content(case_id, name, pair, organ) for case_id, pair in pairs.items())
    return Made(cases=cases, record=record)


def _case_id(number: int) -> str:
    return f"pair_{number:05d}"


def _content(case_id: str, patient: str, pair: SyntheticPair, organ: str | None) -> CaseContent:
    return CaseContent(
        case_id=case_id,
        patient=patient,
        case=pair.case,
        truth={"primary": pair.truth},
        facts=pair.facts,
        organ=organ,
    )
