"""`longilesion fetch` and `longilesion store`: series from and to an archive that speaks DICOMweb."""

from __future__ import annotations

from pathlib import Path

import tyro

from longilesion.cli.terminal import console
from longilesion.files import check_writable


def fetch(archive: tyro.conf.Positional[str], series: tyro.conf.Positional[str], /, *, output: Path) -> None:
    """Fetch a series of DICOM files from an archive, completely or not at all.

    Credentials are those of the environment: LONGILESION_ARCHIVE_USER and LONGILESION_ARCHIVE_PASSWORD, or
    LONGILESION_ARCHIVE_TOKEN, or LONGILESION_ARCHIVE_CREDENTIALS, a JSON file with user and password, or token.

    Args:
        archive: DICOMweb address, such as http://localhost:8042/dicom-web.
        series: SeriesInstanceUID of a scan, or of a SEG or RTSTRUCT.
        output: New folder for its files.
    """
    check_writable(output.parent)
    # Imported late: requests takes a while to load.
    from longilesion.dicom.archive import connect, fetch_series

    output_console = console()
    with output_console.status("fetching"):
        count = fetch_series(connect(archive), series, output)
    output_console.print(f"{output}: {count} files", highlight=False, soft_wrap=True)


def store(archive: tyro.conf.Positional[str], files: tyro.conf.Positional[tuple[Path, ...]], /) -> None:
    """Store DICOM files in an archive, and make sure that it has kept them.

    Args:
        archive: DICOMweb address, such as http://localhost:8042/dicom-web. Credentials are those of the environment,
            as for `longilesion fetch`.
        files: Files, or folders of them, such as the output of `longilesion segment`.
    """
    from longilesion.dicom.archive import connect, store_files

    output_console = console()
    with output_console.status("storing"):
        count = store_files(connect(archive), files)
    output_console.print(f"{archive}: {count} files stored", highlight=False, soft_wrap=True)
