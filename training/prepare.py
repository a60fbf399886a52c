"""Prepares a data set for training: Grand-Challenge-shaped case folders with truth, and folds by patient.

Or exam folders of the liver in contrast phases (phases), of which a model learns the types of lesions.

python -m training.prepare longitudinal-ct ROOT --output DATA
python -m training.prepare folder ROOT --output DATA
python -m training.prepare synthetic --data CT_FOLDER --cases 500 --output DATA
python -m training.prepare synthetic --data CT_FOLDER --organ liver --folds 2 --cases 60 --output EXAMS
python -m training.prepare phases --data CT_FOLDER --cases 160 --output EXAMS

Layouts, what is left out and why: docs/training-data.md
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ValidationError

from longilesion.config import Device
from longilesion.ensemble import find_device
from longilesion.errors import InputError, first_error
from training.command import run_command
from training.preparation.longitudinal_ct import LICENCE, find_longitudinal_ct
from training.preparation.pair_folder import find_pairs
from training.preparation.patient import DataSource
from training.preparation.phases import ExamOptions, prepare_exams
from training.preparation.run import Options, prepare
from training.preparation.selection import EdgeRule
from training.preparation.synthetic import find_synthetic
from training.recipe import read_recipe
from training.synthesis.exam_settings import ExamSettings
from training.synthesis.settings import LifenetSettings, SynthesisSettings


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments common to all sources."""

    output: Path
    """folder of the prepared data set; a part of it may be there from an earlier run"""
    name: str | None = None
    """name of the data set; that of the output folder if not given"""
    licence: str | None = None
    """licence or attribution, which goes with the data set"""
    folds: int = 5
    """number of folds by patient; 0 leaves only the 80/20 split"""
    seed: int = 0
    """decides the folds, and the synthetic pairs"""
    workers: int = 0
    """processes; 0 takes as many as cores and 4 GB of memory allow"""
    strict: bool = False
    """makes an error of anything that does not fit together, once all patients have been looked at"""


@dataclass(frozen=True, kw_only=True)
class LongitudinalCt(Arguments):
    """The challenge's training data, Longitudinal-CT, in any of its releases."""

    root: tyro.conf.Positional[Path]
    """folder with inputsTr and targetsTr"""
    edge: EdgeRule = "lesion"
    """what to leave out where a point lies at the edge of its scan"""
    keep_unclear: bool = False
    """keeps lesions of which the table says that their linking is unclear"""


@dataclass(frozen=True, kw_only=True)
class Folder(Arguments):
    """Scan pairs of your own, listed in pairs.csv."""

    root: tyro.conf.Positional[Path]
    """folder with pairs.csv, and lesions.csv where more is known"""
    edge: EdgeRule = "lesion"
    """what to leave out where a point lies at the edge of its scan"""


@dataclass(frozen=True, kw_only=True)
class Synthetic(Arguments):
    """Synthetic pairs, drawn from CT volumes or from phantoms."""

    cases: int
    """number of pairs"""
    data: Path | None = None
    """folder with a sub-folder per volume: ct.nii.gz, lesions.nii.gz and organs' masks; phantoms if not given"""
    shapes: Path | None = None
    """file of lesion shapes (training.shapes) for painted lesions, in place of the recipe's"""
    phantoms: int = 20
    """number of phantoms"""
    recipe: Path | None = None
    """recipe whose synthesis settings are taken"""
    times: int = 2
    """time points; of more than two, every pair of consecutive ones is a case"""
    organ: str | None = None
    """draws exams for detectors: the part of each scan around the organ of that mask, with LiFE-Net's lesions in it
    unless there is a recipe, and pairs without any lesion"""
    whole: bool = True
    """whole scans instead of cut-outs around a lesion"""
    device: Device = "cpu"
    """where pairs are drawn"""


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Synthetic exams of the liver in one to four contrast phases, with lesions of known types."""

    output: Path
    """folder of the exams; a part of them may be there from an earlier run"""
    cases: int
    """number of exams"""
    data: Path | None = None
    """folder with a sub-folder per volume: ct.nii.gz and organs/liver.nii.gz; phantoms if not given"""
    shapes: Path | None = None
    """file of lesion shapes (training.shapes) for irregular lesions"""
    phantoms: int = 20
    """number of phantoms"""
    seed: int = 0
    """exam k depends on the seed and k alone"""
    workers: int = 0
    """processes; 0 takes as many as cores and 4 GB of memory allow"""
    spacing: tuple[float, float, float] | None = None
    """voxels in mm (z, y, x); the scan's, with at least 1.5 mm within slices, if not given"""
    missing_non_contrast: float = 0.0
    """share of the exams without that phase"""
    missing_arterial: float = 0.0
    """share of the exams without that phase"""
    missing_delayed: float = 1 / 3
    """share of the exams without that phase"""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The source to prepare."""

    source: Annotated[
        LongitudinalCt | Folder | Synthetic | Phases, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes
    ]


def main() -> int:
    """Prepares a data set."""
    return run_command(_prepare, Preparation, __doc__)


def _prepare(preparation: Preparation) -> None:
    arguments = preparation.source
    if isinstance(arguments, Phases):
        _prepare_phases(arguments)
        return
    if arguments.folds < 0 or arguments.folds == 1:
        raise InputError(f"--folds {arguments.folds}; expected at least 2, or 0 for the 80/20 split alone")
    if arguments.workers < 0 or arguments.seed < 0:
        raise InputError(f"--workers {arguments.workers} --seed {arguments.seed}; expected at least 0")
    source = _source(arguments)
    licence = LICENCE if isinstance(arguments, LongitudinalCt) and arguments.licence is None else arguments.licence
    options = Options(
        output=arguments.output,
        name=arguments.name or arguments.output.resolve().name,
        licence="; ".join(filter(None, (licence, source.licence))) or None,
        folds=arguments.folds,
        seed=arguments.seed,
        workers=arguments.workers,
        strict=arguments.strict,
    )
    prepare(source, options)


def _prepare_phases(arguments: Phases) -> None:
    if arguments.cases < 1 or arguments.phantoms < 1:
        raise InputError(f"--cases {arguments.cases} --phantoms {arguments.phantoms}; expected at least 1")
    if arguments.workers < 0 or arguments.seed < 0:
        raise InputError(f"--workers {arguments.workers} --seed {arguments.seed}; expected at least 0")
    missing = {
        "non_contrast": arguments.missing_non_contrast,
        "arterial": arguments.missing_arterial,
        "delayed": arguments.missing_delayed,
    }
    try:
        settings = ExamSettings.model_validate({"spacing_zyx_mm": arguments.spacing, "missing": missing})
    except ValidationError as error:
        raise InputError(f"{first_error(error)}; see --help") from error
    prepare_exams(
        ExamOptions(
            output=arguments.output,
            exams=arguments.cases,
            data=arguments.data,
            shapes=arguments.shapes,
            phantoms=arguments.phantoms,
            seed=arguments.seed,
            workers=arguments.workers,
            settings=settings,
        )
    )


def _source(arguments: LongitudinalCt | Folder | Synthetic) -> DataSource:
    match arguments:
        case LongitudinalCt():
            return find_longitudinal_ct(arguments.root, edge=arguments.edge, keep_unclear=arguments.keep_unclear)
        case Folder():
            return find_pairs(arguments.root, edge=arguments.edge)
        case Synthetic():
            if arguments.cases < 1 or arguments.phantoms < 1:
                raise InputError(f"--cases {arguments.cases} --phantoms {arguments.phantoms}; expected at least 1")
            if arguments.times < 2:
                raise InputError(f"--times {arguments.times}; expected at least 2")
            if arguments.organ is not None and not arguments.whole:
                raise InputError("--organ with --no-whole; expected one of them, as an exam shows the whole organ")
            recipe = None if arguments.recipe is None else read_recipe(arguments.recipe)
            return find_synthetic(
                arguments.data,
                cases=arguments.cases,
                phantoms=arguments.phantoms,
                seed=arguments.seed,
                settings=_without_recipe(arguments.organ) if recipe is None else recipe.synthesis,
                shapes=arguments.shapes or (None if recipe is None else recipe.data.shapes),
                whole=arguments.whole,
                times=arguments.times,
                organ=arguments.organ,
                device=find_device(arguments.device),
            )


def _without_recipe(organ: str | None) -> SynthesisSettings:
    """The synthesis of pairs without a recipe: LiFE-Net's in an organ, else the general one."""
    if organ is None:
        return SynthesisSettings()
    return SynthesisSettings(generator="lifenet", lifenet=LifenetSettings(organs=(organ,)))


if __name__ == "__main__":
    sys.exit(main())
