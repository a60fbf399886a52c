"""Series from and to an archive: a real Orthanc, and archives that fail in every way."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests

from longilesion import cli
from longilesion.case import LesionMap
from longilesion.case_files import SeriesChoice
from longilesion.cli.scans import ScanSource
from longilesion.dicom.archive import CREDENTIALS_FILE, PASSWORD, TOKEN, USER, connect, fetch_series, store_files
from longilesion.dicom.output import FOLLOWUP_SEG, REPORT, Findings, Outlined
from longilesion.dicom.segmentation import read_segments
from longilesion.dicom.series import chosen_series
from longilesion.errors import InputError
from longilesion.images import read_lesion_map, read_scan
from longilesion.response import Measured
from test.dicom_results import write_results
from test.dicom_series import of_patient, write_series
from test.unit.test_dicom_series import assert_equal, scan

ORTHANC = shutil.which("Orthanc")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
UID = "1.2.3.4"
OF_ARCHIVE = ["--from", "http://a/b", "--followup-series", "1"]


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (USER, PASSWORD, TOKEN, CREDENTIALS_FILE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an archive of its own on loopback, with a user."""
    if ORTHANC is None or not PLUGIN.exists():
        pytest.skip("needs Debian's orthanc and orthanc-dicomweb")
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "db"),
                "IndexDirectory": str(folder / "db"),
                "Plugins": [str(PLUGIN)],
                "HttpPort": port,
                "DicomPort": free_port(),
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": True,
                "RegisteredUsers": {"ann": "secret"},
                "DicomWeb": {"Enable": True},
            }
        )
    )
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([ORTHANC, folder / "settings.json"], stdout=log, stderr=log) as process,
    ):
        try:
            for _ in range(200):
                try:
                    if requests.get(f"http://127.0.0.1:{port}/system", auth=("ann", "secret"), timeout=5).ok:
                        break
                except requests.exceptions.ConnectionError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/dicom-web"
        finally:
            process.terminate()


@pytest.mark.orthanc
@pytest.mark.usefixtures("restored_logging")
def test_series_goes_to_an_archive_and_comes_back(
    orthanc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(USER, "ann")
    monkeypatch.setenv(PASSWORD, "secret")
    visit = write_series(tmp_path / "ct", scan())
    assert cli.main(["store", orthanc, str(tmp_path / "ct")]) == 0
    assert cli.main(["fetch", orthanc, visit["SeriesInstanceUID"], "--output", str(tmp_path / "back")]) == 0
    assert_equal(read_scan(tmp_path / "back"), scan())
    said = capfd.readouterr()
    assert "6 files" in said.out
    assert not any(name in said.out + said.err for name in ("Doe", "P1", "secret"))
    # What is there is not written over, and nothing else is left.
    assert cli.main(["fetch", orthanc, visit["SeriesInstanceUID"], "--output", str(tmp_path / "back")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "ct"]


@pytest.mark.orthanc
def test_archive_wants_the_right_credentials(orthanc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="HTTP 401, it wants credentials"):
        fetch_series(connect(orthanc), UID, tmp_path / "out")
    monkeypatch.setenv(USER, "ann")
    monkeypatch.setenv(PASSWORD, "wrong")
    with pytest.raises(InputError, match="HTTP 401") as error:
        fetch_series(connect(orthanc), UID, tmp_path / "out")
    assert "wrong" not in str(error.value)
    (tmp_path / "who.json").write_text('{"user": "ann", "password": "secret"}')
    monkeypatch.setenv(CREDENTIALS_FILE, str(tmp_path / "who.json"))
    with pytest.raises(InputError, match=f"0 series {UID}; expected one"):
        fetch_series(connect(orthanc), UID, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def as_ann(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(USER, "ann")
    monkeypatch.setenv(PASSWORD, "secret")


def outlined(folder: Path) -> dict[str, str]:
    """Two visits of a patient and the first one's outlines as SEG; returns the SeriesInstanceUIDs."""
    visit = of_patient(AcquisitionDate="20200131")
    followup = write_series(folder / "followup", scan(1), visit=of_patient(AcquisitionDate="20200401"))
    baseline = write_series(folder / "baseline", scan(), visit=visit)
    lesions = LesionMap(ids=np.zeros(scan().hu.shape, np.uint16), grid=scan().grid)
    lesions.ids[2:4, 5:8, 6:10] = 7
    given = Outlined(series=chosen_series(folder / "baseline"), lesions=lesions)
    write_results(folder / "outlines", given, Findings(measured={7: Measured(longest_mm=3)}, lesion_ids=[7]))
    (folder / "outlines" / REPORT).unlink()
    segmentation = pydicom.dcmread(folder / "outlines" / FOLLOWUP_SEG, stop_before_pixels=True)
    return {
        "baseline": baseline["SeriesInstanceUID"],
        "followup": followup["SeriesInstanceUID"],
        "lesions": str(segmentation.SeriesInstanceUID),
    }


@pytest.mark.orthanc
@pytest.mark.usefixtures("restored_logging", "as_ann")
def test_series_of_an_archive_are_outlined_and_the_results_stored_there(
    orthanc: str, tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = outlined(tmp_path / "sent")
    store_files(connect(orthanc), [tmp_path / "sent"])
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    series = [f"--{role}-series={uid}" for role, uid in uids.items()]
    report = tmp_path / "report.json"
    command = ["segment", "--from", orthanc, *series, "--output", str(tmp_path / "out.dcm"), "--model", str(bundle)]
    assert cli.main([*command, "--store", "--report", str(report), "--html", str(tmp_path / "page.html")]) == 0
    assert [lesion["id"] for lesion in json.loads(report.read_text())["lesions"]] == [7]
    # The archive has the results, under the identifiers that the outlines came with.
    (known,) = read_segments(tmp_path / "sent" / "outlines" / FOLLOWUP_SEG)
    results = [pydicom.dcmread(tmp_path / "out.dcm" / name, stop_before_pixels=True) for name in (FOLLOWUP_SEG, REPORT)]
    for name, result in zip((FOLLOWUP_SEG, REPORT), results, strict=True):
        assert fetch_series(connect(orthanc), str(result.SeriesInstanceUID), tmp_path / f"back_{name}") == 1
    (back,) = read_segments(next((tmp_path / f"back_{FOLLOWUP_SEG}").iterdir()))
    assert (back.lesion_id, back.tracking_uid) == (7, known.tracking_uid)
    # Files of the same scans give the same outlines.
    files = [f"--{role}={tmp_path / 'sent' / role}" for role in ("baseline", "followup")]
    files += [f"--lesions={tmp_path / 'sent' / 'outlines'}", f"--output={tmp_path / 'local.dcm'}"]
    assert cli.main(["segment", *files, "--model", str(bundle)]) == 0
    grid = scan().grid
    locally, fetched = (read_lesion_map(tmp_path / name / FOLLOWUP_SEG, like=grid) for name in ("local.dcm", "out.dcm"))
    np.testing.assert_array_equal(locally.ids, fetched.ids)
    # Nothing that was fetched is left, no address of a scratch folder shows, and no name of a patient.
    assert list((tmp_path / "scratch").iterdir()) == []
    said = capfd.readouterr()
    text = said.out + said.err + report.read_text() + (tmp_path / "page.html").read_text()
    assert not any(name in text for name in ("scratch", "Doe", "secret"))


@pytest.mark.orthanc
@pytest.mark.usefixtures("restored_logging", "as_ann")
def test_series_that_an_archive_does_not_have_leaves_nothing(
    orthanc: str, tmp_path: Path, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.dcm"
    command = ["segment", "--from", orthanc, "--baseline-series", "1.9", "--followup-series", "1.8"]
    options = ["--lesions-series", "1.7", "--output", str(output), "--model", str(bundle)]
    assert cli.main([*command, *options]) == 1
    assert f"{orthanc}: 0 series 1.9; expected one" in capfd.readouterr().err
    assert not any(output.iterdir())


@pytest.mark.usefixtures("restored_logging")
def test_results_that_an_archive_refuses_are_kept(
    tmp_path: Path, archive: Callable[[Callable[[BaseHTTPRequestHandler], None]], str]
) -> None:
    outlined(tmp_path)
    source = ScanSource(
        followup=None, baseline=None, lesions=None, series=SeriesChoice(followup="1.2"), archive=archive(status(500))
    )
    files = [tmp_path / "outlines" / FOLLOWUP_SEG]
    with pytest.raises(InputError, match=r"HTTP 500, it failed.*; the results are complete in .*outlines"):
        source.store(files)
    assert files[0].is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no follow-up scan; expected --followup, or --from ARCHIVE and --followup-series"),
        (["--from", "http://a/b"], "--from without a follow-up scan; expected its SeriesInstanceUID"),
        (["--from", "http://a/b", "--followup", "x"], "--followup x with --from, whose scans are series"),
        ([*OF_ARCHIVE, "--baseline", "x"], "--baseline x with --from"),
        ([*OF_ARCHIVE, "--lesions-series", "2"], "without its scan"),
        (
            [*OF_ARCHIVE, "--baseline-series", "2", "--lesions-series", "3", "--lesions", "m.nii.gz"],
            "--lesions-series and --lesions m.nii.gz; expected one of both",
        ),
        (["--followup", "x", "--lesions-series", "2"], "--lesions-series without its archive"),
        (["--followup", "x", "--lesions", "m", "--store"], "--store without an archive, or without results in DICOM"),
        (["--from", "ftp://a", "--followup-series", "1", "--find-new"], "ftp://a: no address of an archive"),
    ],
)
@pytest.mark.usefixtures("restored_logging")
def test_options_of_an_archive_that_do_not_go_together_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    output = tmp_path / ("out.nii.gz" if "--store" in options else "out.dcm")
    assert cli.main(["segment", "--output", str(output), *options]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line


# --------------------------------------------------------------------------------------------------- archives that fail


@pytest.fixture
def archive() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], str]]:
    """Starts a server that answers every request by a function; returns its address."""
    servers = []

    def started(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/dicom-web"

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


def status(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.rfile.read(int(request.headers.get("Content-Length") or 0))
        request.send_response(code)
        request.end_headers()
        request.wfile.write(b"Doe^Jane")

    return answer


def cut(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "application/dicom+json")
    request.send_header("Content-Length", "100000")
    request.end_headers()
    request.wfile.write(b"[")
    request.wfile.flush()
    request.connection.shutdown(socket.SHUT_RDWR)


def stalled(request: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


def web_page(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Type", "text/html")
    request.end_headers()
    request.wfile.write(b"<html>Log in</html>")


FAULTS = [
    (status(401), "HTTP 401, it wants credentials"),
    (status(403), "HTTP 403, these credentials may not do that"),
    (status(404), "HTTP 404, there is nothing under this address"),
    (status(500), "HTTP 500, it failed"),
    (status(503), "HTTP 503, it failed"),
    (cut, "no connection, or it was cut|no answer of an archive"),
    (stalled, "no answer in time"),
    (web_page, "no answer of an archive"),
]


@pytest.mark.parametrize(("answer", "message"), FAULTS)
def test_failure_while_fetching_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path,
    archive: Callable[[Callable[[BaseHTTPRequestHandler], None]], str],
    answer: Callable[[BaseHTTPRequestHandler], None],
    message: str,
) -> None:
    url = archive(answer)
    with pytest.raises(InputError, match=message) as error:
        fetch_series(connect(url, answer_s=1), UID, tmp_path / "out")
    assert url in str(error.value)
    assert "\n" not in str(error.value)
    assert "Doe" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "message"), [fault for fault in FAULTS if fault[0] is not web_page])
def test_failure_while_storing_is_told_in_one_line(
    tmp_path: Path,
    archive: Callable[[Callable[[BaseHTTPRequestHandler], None]], str],
    answer: Callable[[BaseHTTPRequestHandler], None],
    message: str,
) -> None:
    write_series(tmp_path, scan(shape_zyx=(2, 4, 4)))
    with pytest.raises(InputError, match=message) as error:
        store_files(connect(archive(answer), answer_s=1), [tmp_path])
    assert "Doe" not in str(error.value)


def test_archive_that_sends_too_few_images_or_drops_the_line_is_not_believed(
    tmp_path: Path, archive: Callable[[Callable[[BaseHTTPRequestHandler], None]], str]
) -> None:
    write_series(tmp_path / "ct", scan(shape_zyx=(3, 4, 4)))
    files = sorted((tmp_path / "ct").iterdir())
    series = {"0020000D": {"vr": "UI", "Value": ["1.2"]}, "0020000E": {"vr": "UI", "Value": [UID]}}

    def answers(*, sent: int, is_cut: bool) -> Callable[[BaseHTTPRequestHandler], None]:
        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            if "/instances" in request.path or "/series?" in request.path:
                count = 3 if "/instances" in request.path else 1
                body = json.dumps([series] * count).encode()
                request.send_header("Content-Type", "application/dicom+json")
            else:
                parts = b"".join(
                    b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n"
                    for file in files[:sent]
                )
                body = parts + b"--b--\r\n"
                request.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=b')
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body[: len(body) // 2] if is_cut and b"--b" in body else body)
            if is_cut and b"--b" in body:
                request.connection.shutdown(socket.SHUT_RDWR)

        return answer

    assert fetch_series(connect(archive(answers(sent=3, is_cut=False))), UID, tmp_path / "all") == 3
    with pytest.raises(InputError, match="2 of 3 images arrived; expected all of them"):
        fetch_series(connect(archive(answers(sent=2, is_cut=False))), UID, tmp_path / "few")
    with pytest.raises(InputError, match=r"cut|images arrived|no answer of an archive"):
        fetch_series(connect(archive(answers(sent=3, is_cut=True))), UID, tmp_path / "cut")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "ct"]


def test_nobody_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no connection"):
        fetch_series(connect(f"http://127.0.0.1:{free_port()}/x"), UID, tmp_path / "out")


@pytest.mark.parametrize("url", ["localhost:8042", "ftp://a/b", "file:///etc/passwd", "http://", "archive"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="expected one such as http://localhost:8042/dicom-web"):
        connect(url)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="credentials in the address of host; expected them in") as error:
        connect("http://ann:secret@host/dicom-web")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("content", ["{}", "[]", '{"name": "x"}', "nothing", '{"user": 3}'])
def test_file_without_credentials_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    (tmp_path / "who.json").write_text(content)
    monkeypatch.setenv(CREDENTIALS_FILE, str(tmp_path / "who.json"))
    with pytest.raises(InputError, match=r"who.json: .*expected user and password, or token"):
        connect("http://localhost/dicom-web")


def test_token_is_sent_as_bearer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, archive: Callable[..., str]) -> None:
    seen = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.headers.get("Authorization"))
        status(404)(request)

    monkeypatch.setenv(TOKEN, "abc")
    with pytest.raises(InputError, match="404"):
        fetch_series(connect(archive(answer)), UID, tmp_path / "out")
    assert seen == ["Bearer abc"]


def test_nothing_to_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no DICOM file; expected some to store"):
        store_files(connect("http://localhost/dicom-web"), [tmp_path])
