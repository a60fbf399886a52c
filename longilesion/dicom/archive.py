"""Series from and to an archive that speaks DICOMweb (QIDO-RS, WADO-RS, STOW-RS), such as Orthanc."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session, create_session_from_user_pass
from pydicom.dataset import Dataset
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import HTTPError, RequestException, Timeout

from longilesion.dicom.files import dicom_files
from longilesion.dicom.privacy import without_names
from longilesion.errors import InputError
from longilesion.json_file import read_json

# Credentials are taken from the environment or a file, never from the command line, where other users see them.
USER, PASSWORD, TOKEN = "LONGILESION_ARCHIVE_USER", "LONGILESION_ARCHIVE_PASSWORD", "LONGILESION_ARCHIVE_TOKEN"
CREDENTIALS_FILE = "LONGILESION_ARCHIVE_CREDENTIALS"
# Seconds to wait for a connection, and for the next bytes of an answer.
_CONNECT_S, _ANSWER_S = 10.0, 60.0
_PARTIAL = ".partial-"
_REASONS = {
    401: f"it wants credentials, or others ({USER} and {PASSWORD}, or {TOKEN}, or a file named by {CREDENTIALS_FILE})",
    403: "these credentials may not do that",
    404: "there is nothing under this address",
}


def connect(url: str, *, answer_s: float = _ANSWER_S) -> DICOMwebClient:
    """The archive at a DICOMweb address, with credentials from the environment or the file that it names.

    Raises InputError for an address that is none, or that holds credentials, and for a file that holds none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"{url}: no address of an archive; expected one such as http://localhost:8042/dicom-web")
    if parts.username or parts.password:
        raise InputError(f"credentials in the address of {parts.hostname}; expected them in {USER} and {PASSWORD}")
    given = dict(os.environ)
    if CREDENTIALS_FILE in given:
        given |= _credentials(Path(given[CREDENTIALS_FILE]))
    session = create_session()
    if given.get(TOKEN):
        session.headers["Authorization"] = f"Bearer {given[TOKEN]}"
    elif given.get(USER):
        session = create_session_from_user_pass(given[USER], given.get(PASSWORD, ""))
    client = DICOMwebClient(url, session=session, timeout=(_CONNECT_S, answer_s))
    client.set_http_retry_params(retry=False)
    return client


def fetch_series(client: DICOMwebClient, series_uid: str, folder: Path) -> int:
    """Fetches a series into a folder that is new or empty, completely or not at all; returns the number of files.

    Raises InputError where the archive has no such series, fails, or sends fewer images than it says that it has.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: there is something there; expected a new folder")
    partial = folder.with_name(_PARTIAL + folder.name)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with _said(client.base_url), without_names():
            found = client.search_for_series(search_filters={"SeriesInstanceUID": series_uid})
            if len(found) != 1:
                raise InputError(f"{client.base_url}: {len(found)} series {series_uid}; expected one")
            study_uid = _value(found[0], "0020000D")
            expected = len(client.search_for_instances(study_uid, series_uid))
            count = 0
            for dataset in client.iter_series(study_uid, series_uid):
                count += 1
                dataset.save_as(partial / f"{count:05d}.dcm", enforce_file_format=True)
        if count != expected:
            raise InputError(f"{client.base_url}: {count} of {expected} images arrived; expected all of them")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def store_files(client: DICOMwebClient, paths: Sequence[Path]) -> int:
    """Stores DICOM files, and those of folders, in one request, and asks for them again; returns their number.

    Raises InputError where there are none, where the archive fails, or where it has not kept all of them.
    """
    files = [file for path in paths for file in dicom_files(path)]
    if not files:
        raise InputError(f"{', '.join(map(str, paths))}: no DICOM file; expected some to store")
    with without_names():
        datasets = [pydicom.dcmread(file) for file in files]
        with _said(client.base_url):
            answer = client.store_instances(datasets)
            refused = answer.get("FailedSOPSequence") or []
            if refused:
                raise InputError(
                    f"{client.base_url}: {len(refused)} of {len(files)} files refused; expected all stored"
                )
            missing = [file for file, dataset in zip(files, datasets, strict=True) if not _has(client, dataset)]
    if missing:
        raise InputError(
            f"{client.base_url}: {missing[0]} was stored and is not there; expected the archive to keep it"
        )
    return len(files)


def _has(client: DICOMwebClient, dataset: Dataset) -> bool:
    found = client.search_for_instances(
        dataset.StudyInstanceUID,
        dataset.SeriesInstanceUID,
        search_filters={"SOPInstanceUID": dataset.SOPInstanceUID},
    )
    return len(found) == 1


def _credentials(path: Path) -> dict[str, str]:
    names = {"user": USER, "password": PASSWORD, "token": TOKEN}
    content = read_json(path, dict[str, str], expected="user and password, or token")
    if not content or set(content) - set(names):
        raise InputError(f"{path}: {', '.join(content) or 'nothing'}; expected user and password, or token")
    return {names[name]: value for name, value in content.items()}


def _value(attributes: Mapping[str, Any], tag: str) -> str:
    return str(attributes[tag]["Value"][0])


@contextmanager
def _said(url: str) -> Iterator[None]:
    """Turns what can go wrong on the way into one line that names the archive, and no identifier of a patient."""
    try:
        yield
    except HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        reason = _REASONS.get(status, "it failed" if status >= 500 else "it refused")
        raise InputError(f"{url}: HTTP {status}, {reason}; expected an answer") from error
    except Timeout as error:
        raise InputError(f"{url}: no answer in time; expected one") from error
    except (NoConnection, requests.exceptions.ChunkedEncodingError) as error:
        raise InputError(f"{url}: no connection, or it was cut; expected an answer") from error
    except (RequestException, ValueError, KeyError, IndexError, EOFError, AttributeError) as error:
        raise InputError(f"{url}: no answer of an archive ({type(error).__name__}); expected DICOMweb") from error
