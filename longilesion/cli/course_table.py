"""The course of a patient in the terminal: a table of lesions, and the response in lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from longilesion.cli.terminal import LOOK_AT_IT, line_table, note
from longilesion.volume_text import volume_text

if TYPE_CHECKING:
    from longilesion.course import CourseRecord, LesionRecord, ResponseRecord


def course_table(course: CourseRecord) -> Table:
    """A row per lesion, a column per time point with the longest diameter; the last column has notes."""
    # Imported here, as --help does not need it; a course comes from a module that has loaded it already.
    from longilesion.pipeline import remarks

    numbers = [str(record.number) for record in course.time_points]
    headings = [f"{number}: mm" for number in numbers]
    table = line_table("lesion", *headings, "ml", "note", numbers=("lesion", *headings, "ml"))
    for lesion_id in course.lesion_ids:
        rows = course.of(lesion_id)
        cells = ["-" if row is None or row.is_outside else _length(row) for row in rows]
        last = [row for row in rows if row is not None][-1]
        notes = [LOOK_AT_IT] if any(row is not None and row.unsure for row in rows) else []
        notes += ["candidate, not confirmed"] if last.is_candidate else []
        notes += ["target"] if lesion_id in course.targets else []
        notes += ["lymph node"] if lesion_id in course.nodes else []
        notes += [course.organs[lesion_id]] if lesion_id in course.organs else []
        notes += remarks(last.note)
        table.add_row(str(lesion_id), *cells, volume_text(last.volume_ml), note("; ".join(notes)))
    return table


def _length(row: LesionRecord) -> str:
    """The longest diameter, with half of its 95 % interval where that is known."""
    return f"{row.longest_mm:.1f}" if row.error_mm is None else f"{row.longest_mm:.1f} ± {row.error_mm:.1f}"


def summary(course: CourseRecord) -> list[str]:
    """The response at each time point, and the best one."""
    lines = [f"scan {record.number}: {record.error}" for record in course.time_points if record.error is not None]
    lines += [f"scan {each.number}: {response_text(each)}" for each in course.responses]
    if course.best is not None:
        lines.append(f"best response {course.best}, confirmed {course.best_confirmed or '-'}; RECIST 1.1")
    lines.append(course.statement)
    return lines


def response_text(response: ResponseRecord) -> str:
    """The response at a time point, and what it follows from."""
    change = "" if response.change is None else f", {100 * response.change:+.0f} % from baseline"
    about = f" ± {response.error_mm:.1f}" if response.error_mm else ""
    could_be = f", could be {' or '.join(response.could_be)}" if response.could_be else ""
    new = f", new: {', '.join(map(str, response.new))}" if response.new else ""
    return f"{response.overall} (sum {response.sum_mm:.1f}{about} mm{change}{new}{could_be})"
