"""The scans of `longilesion segment`: files, or series of an archive, which are fetched for as long as it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from longilesion.case_files import SeriesChoice
from longilesion.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Scans:
    """The files of a case; `names` are those of the baseline, if there is one, and the follow-up in reports."""

    followup: Path
    baseline: Path | None
    lesions: Path | None
    series: SeriesChoice
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSource:
    """Where scans and mask come from: files, of which `series` chooses; or series of an archive, by their UIDs.

    `lesions` may be a file in both cases.
    """

    followup: Path | None
    baseline: Path | None
    lesions: Path | None
    series: SeriesChoice
    archive: str | None = None
    lesions_series: str | None = None

    @property
    def has_lesions(self) -> bool:
        """Whether there is a mask."""
        return self.lesions is not None or self.lesions_series is not None

    @property
    def first_step(self) -> str:
        """What takes the time before anything is read."""
        return "loading the model" if self.archive is None else "fetching the scans"

    def check(self) -> None:
        """Raises InputError for options that do not go together."""
        if self.archive is None:
            if self.followup is None:
                raise InputError("no follow-up scan; expected --followup, or --from ARCHIVE and --followup-series")
            if self.lesions_series is not None:
                raise InputError("--lesions-series without its archive; expected --from too, or the file as --lesions")
            return
        for option, path in (("followup", self.followup), ("baseline", self.baseline)):
            if path is not None:
                raise InputError(
                    f"--{option} {path} with --from, whose scans are series; expected --{option}-series with its UID"
                )
        if self.series.followup is None:
            raise InputError("--from without a follow-up scan; expected its SeriesInstanceUID as --followup-series")
        if self.lesions_series is not None and self.series.baseline is None:
            raise InputError("--lesions-series without its scan; expected --baseline-series too")
        if self.lesions_series is not None and self.lesions is not None:
            raise InputError(f"--lesions-series and --lesions {self.lesions}; expected one of both")

    def store(self, files: Sequence[Path]) -> None:
        """Stores results in the archive; raises InputError where it does not keep all of them."""
        from longilesion.dicom.archive import connect, store_files

        assert self.archive is not None
        try:
            store_files(connect(self.archive), files)
        except InputError as error:
            raise InputError(f"{error}; the results are complete in {files[0].parent}") from error

    @contextmanager
    def opened(self) -> Iterator[Scans]:
        """The files, once `check` has passed; those of an archive are there until the context ends.

        Raises InputError where the archive does not give all of them.
        """
        if self.archive is None:
            assert self.followup is not None
            paths = [path for path in (self.baseline, self.followup) if path is not None]
            yield Scans(
                followup=self.followup,
                baseline=self.baseline,
                lesions=self.lesions,
                series=self.series,
                names=tuple(map(str, paths)),
            )
            return
        # Imported late: requests takes a while to load.
        from longilesion.dicom.archive import connect, fetch_series

        client = connect(self.archive)
        asked = {"baseline": self.series.baseline, "lesions": self.lesions_series, "followup": self.series.followup}
        uids = {role: uid for role, uid in asked.items() if uid is not None}
        with TemporaryDirectory(prefix="longilesion-") as name:
            folders = {role: Path(name) / role for role in uids}
            for role, folder in folders.items():
                fetch_series(client, uids[role], folder)
            yield Scans(
                followup=folders["followup"],
                baseline=folders.get("baseline"),
                lesions=folders.get("lesions", self.lesions),
                # A series is one volume, or the choice among those in it is listed.
                series=SeriesChoice(),
                names=tuple(f"{self.archive} {uids[role]}" for role in ("baseline", "followup") if role in uids),
            )
