"""The schemas in docs/ are those of what the program writes."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from longilesion.course import CourseRecord
from longilesion.report import RunReport
from longilesion.review.record import ReviewRecord

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"


@pytest.mark.parametrize(
    ("name", "model"), [("run-report", RunReport), ("course", CourseRecord), ("review", ReviewRecord)]
)
def test_schema_is_that_of_the_model(name: str, model: type[BaseModel]) -> None:
    schema = json.dumps(model.model_json_schema(), indent=1, sort_keys=True) + "\n"
    assert (FOLDER / f"{name}.json").read_text() == schema, "write the new schema to docs/schemas"
