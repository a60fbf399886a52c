"""A tiny prepared data set: blocks of soft tissue with dense balls, six cases of five patients, a patient per fold."""

from __future__ import annotations

from pathlib import Path

from longilesion.evaluation.exam import LesionFact
from longilesion.geometry import Grid
from test.unit.builders import case_of, click, scan_with
from test.unit.training_runs import MODEL
from training.preparation.case_folder import write_case
from training.preparation.folds import make_folds
from training.preparation.patient import CaseContent
from training.preparation.prepared import (
    CASES_FOLDER,
    DATASET_FILE,
    FOLDS_FILE,
    CaseEntry,
    DatasetFile,
    PreparedData,
    read_prepared,
    write_json,
)

LICENCE = "CC0, nobody to name"
# The last patient has two follow-ups.
CASES = {"a": "ann", "b": "bob", "c": "cas", "d": "dee", "e1": "eve", "e2": "eve"}
RECIPE = (
    """
name = "tiny"
steps = 2
batch_size = 2
average_decay = 0.5
precision = "32-true"

[validation]
every = 100
cases = 1

[presence]
lesions = 24

"""
    + MODEL
)


def write_prepared(folder: Path) -> PreparedData:
    """Every case has a lesion that shrinks and one that goes."""
    for number, (case_id, patient) in enumerate(CASES.items()):
        grid = Grid.from_spacing((16, 24, 24), (5.0, 4.0, 4.0))
        stays, goes = (30.0 + number, 44.0, 40.0), (66.0, 50.0, 44.0)
        before, outlines = scan_with({1: (stays, 12.0), 2: (goes, 9.0)}, grid)
        after, truth = scan_with({1: (stays, 10.0)}, grid)
        case = case_of(
            [(1, click(stays), click(stays)), (2, click(goes), click(goes))],
            followups={"primary": after},
            baselines={"primary": (before, outlines)},
        )
        facts = {1: LesionFact(fate="persists", true_id=1), 2: LesionFact(fate="gone", true_id=None)}
        content = CaseContent(case_id=case_id, patient=patient, case=case, truth={"primary": truth}, facts=facts)
        (folder / CASES_FOLDER).mkdir(parents=True, exist_ok=True)
        write_case(content, folder / CASES_FOLDER / case_id)
    write_json(folder / FOLDS_FILE, make_folds(set(CASES.values()), folds=5, seed=0))
    entries = tuple(CaseEntry(case_id=name, patient=patient, lesions=2) for name, patient in CASES.items())
    write_json(
        folder / DATASET_FILE,
        DatasetFile(name="blocks", source="test", licence=LICENCE, is_complete=True, cases=entries, arguments={}),
    )
    return read_prepared(folder)
