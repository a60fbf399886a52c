"""One case of Grand Challenge's layout from files to files, by models that are loaded once for any number of cases."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longilesion.case import Case, Scan, ScanName
from longilesion.diagnosis_settings import STATEMENT
from longilesion.ensemble import Ensemble, load_detector, load_ensemble
from longilesion.errors import InputError
from longilesion.files import check_replaceable, check_writable
from longilesion.grand_challenge import check_outputs, read_case, write_outputs
from longilesion.labelling import Labels
from longilesion.organs import LIVER, check_search_options, confined
from longilesion.pipeline import Segmentation, segment_case, with_types
from longilesion.report import make_report, write_report
from longilesion.run_options import USUAL_TYPES, RunOptions
from longilesion.timing import Stopwatch

if TYPE_CHECKING:
    from longilesion.diagnosis.bundle import DiagnosisModel
    from longilesion.new_lesions import Search

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Models:
    """The models that the options ask for, on their device; `search` and `types` are None where they do not."""

    ensemble: Ensemble
    search: Search | None = None
    types: DiagnosisModel | None = None


def load_models(options: RunOptions, watch: Stopwatch) -> Models:
    """Loads the models; raises BundleError, and InputError for options that contradict each other."""
    check_search_options(
        find_new=options.find_new,
        organs=options.organs,
        organ=options.organ,
        detector=options.detector,
        types=options.types,
    )
    search, types = None, None
    with watch("load"):
        ensemble = load_ensemble(options.model, device=options.device, precision=options.precision)
        if options.find_new:
            # Imported late here and below, as few cases need these.
            from longilesion.new_lesions import Search

            search = Search(
                detector=load_detector(
                    ensemble, options.detector, model=options.model, device=options.device, precision=options.precision
                )
            )
        if options.types is not None:
            from longilesion.diagnosis.bundle import load_diagnosis_bundle, usual_bundle

            folder = usual_bundle(options.model) if options.types == USUAL_TYPES else options.types
            types = load_diagnosis_bundle(folder, options.device, options.precision)
    _log.info("loaded %d networks from %s in %.1f s", len(ensemble.networks), options.model, watch.seconds["load"])
    return Models(ensemble=ensemble, search=search, types=types)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """A case that has been read, with the files of its follow-up scans; its scans have the organs of a search.

    `livers` are the follow-up scans with the liver as their organ, none where no types are told.
    """

    case: Case
    followup_files: Mapping[ScanName, Path]
    livers: Mapping[ScanName, Scan]


def run_case(
    directory: Path, output: Path, report: Path | None, *, models: Models, options: RunOptions, watch: Stopwatch
) -> None:
    """Segments the case in a folder, and writes its lesion maps to another one, and a report where one is wanted.

    `watch` has the seconds of what came before. Raises LongilesionError; nothing is written then.
    """
    check_writable(output)
    if report is not None:
        check_replaceable(report)
    with watch("read"):
        case, followup_files = read_case(directory)
        check_outputs(output, followup_files)
        inputs = with_masks(case, followup_files, options)
    counts = len(case.baselines), len(case.followups), len(case.clicks)
    _log.info(
        "read %d baseline scans, %d follow-up scans, %d clicked lesions in %.1f s", *counts, watch.seconds["read"]
    )
    segmentation = segment_inputs(inputs, models=models, options=options)
    outlined = sum(outcome.volume_followup_ml > 0 for outcome in segmentation.lesions)
    spent = sum(segmentation.seconds.values())
    _log.info("outlined %d of %d lesions in %.1f s", outlined, len(segmentation.lesions), spent)
    with watch("write"):
        write_outputs(output, segmentation.maps, followup_files=followup_files)
    _log.info("wrote %d lesion maps to %s in %.1f s", len(segmentation.maps), output, watch.seconds["write"])
    if report is None:
        return
    try:
        write_report(report, make_report(inputs.case, segmentation, seconds=watch.seconds))
    except InputError as error:
        # A non-zero exit code would discard the lesion maps.
        _log.warning("%s; the lesion maps are complete", error)


def with_masks(case: Case, followup_files: Mapping[ScanName, Path], options: RunOptions) -> Inputs:
    """The case with the masks of organs that the options ask for; raises InputError for masks that cannot be used."""
    livers: Mapping[ScanName, Scan] = {}
    if options.organs is not None and options.types is not None:
        livers = confined(case, options.organs, [LIVER]).followups
    if options.organs is not None and options.find_new:
        case = confined(case, options.organs, options.organ)
    return Inputs(case=case, followup_files=followup_files, livers=livers)


def segment_inputs(
    inputs: Inputs, *, models: Models, options: RunOptions, labels: Labels = "lesion_ids"
) -> Segmentation:
    """Outlines the lesions of a case, and tells their types where the options ask for them."""
    if models.types is not None:
        _log.info("telling types of liver lesions with %s: %s", models.types.name, STATEMENT)
    if models.search is not None:
        where = options.organs or "the whole body"
        _log.info("searching with %s in %s", models.search.detector.name, where)
    segmentation = segment_case(
        inputs.case, models.ensemble, labels=labels, refine_clicks=options.refine_clicks, search=models.search
    )
    return segmentation if models.types is None else with_types(segmentation, inputs.livers, models.types)
