"""The files of a review: which are given, where its output may lie, and the patient that is read from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longilesion.case_files import SeriesChoice, read_case
from longilesion.cli.dicom_output import check_dicom_output
from longilesion.cli.scans import Scans
from longilesion.errors import InputError
from longilesion.response import Lesion
from longilesion.timing import Stopwatch

if TYPE_CHECKING:
    from longilesion.review.session import Patient


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewFiles:
    """Where the patient's files are: a case in the layout of /input, or single files."""

    case: Path | None
    followup: Path | None
    baseline: Path | None
    lesions: Path | None
    baseline_clicks: Path | None
    followup_clicks: Path | None
    series: SeriesChoice
    split_components: bool
    same_patient: bool

    @property
    def by_role(self) -> tuple[Path | None, ...]:
        """All in a fixed order, None for those that are not given."""
        return self.case, self.followup, self.baseline, self.lesions, self.baseline_clicks, self.followup_clicks

    @property
    def paths(self) -> list[Path]:
        """All that are given."""
        return [path for path in self.by_role if path is not None]

    def check(self, *, find_new: bool) -> None:
        """Raises InputError where they are no patient to review, or more than one."""
        if self.case is not None:
            if len(self.paths) > 1:
                raise InputError(f"{self.case}: a case, and {self.paths[1]}; expected a case or single files")
            return
        if self.followup is None:
            raise InputError("nothing to review; expected a case, or --followup with --lesions or clicks")
        if not find_new and self.lesions is None and self.baseline_clicks is None and self.followup_clicks is None:
            raise InputError(
                "nothing to look for; expected --lesions, --baseline-clicks, --followup-clicks or --find-new"
            )

    def check_dicom(self, output: Path) -> None:
        """Raises InputError where the result cannot be written in DICOM into a folder."""
        if self.followup is None:
            raise InputError(f"--dicom with the case {self.case}, which has no DICOM; expected --followup in DICOM")
        check_dicom_output(output, self.followup, "lesion_ids")

    @property
    def scans(self) -> Scans:
        """Single files, as `longilesion segment` takes them."""
        assert self.followup is not None
        return Scans(followup=self.followup, baseline=self.baseline, lesions=self.lesions, series=self.series, names=())

    def read(self, watch: Stopwatch, facts: Mapping[int, Lesion]) -> Patient:
        """Reads them; raises InputError."""
        # Imported late: torch takes a second to load, and an invalid option does not need it.
        from longilesion import grand_challenge
        from longilesion.images import open_image
        from longilesion.review.session import Patient

        if self.case is not None:
            case, scans = grand_challenge.read_case(self.case)
            return Patient(
                case=case,
                scans={name: open_image(path) for name, path in scans.items()},
                seconds=watch.seconds,
                facts=facts,
            )
        assert self.followup is not None
        case = read_case(
            self.followup,
            self.baseline,
            self.lesions,
            baseline_clicks=self.baseline_clicks,
            followup_clicks=self.followup_clicks,
            split_components=self.split_components,
            series=self.series,
            same_patient=self.same_patient,
        )
        scan = open_image(self.followup, self.series.followup)
        return Patient(case=case, scans={"primary": scan}, seconds=watch.seconds, facts=facts)


def check_apart(output: Path, inputs: Collection[Path]) -> None:
    """Raises InputError where the journal would be among the files by which a review is known."""
    inside = output.resolve()
    for path in inputs:
        if path.is_dir() and path.resolve() in (inside, *inside.parents):
            raise InputError(f"{output}: lies in {path}, one of the inputs; expected a folder outside")
