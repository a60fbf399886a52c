"""The server of a review: what it answers, and to whom it refuses to."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from nibabel.nifti1 import Nifti1Image
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from longilesion.review.guard import MOST_BYTES
from longilesion.review.server import _PAGE, _SCRIPTS, make_app
from longilesion.review.serving import listen
from longilesion.review.session import Session
from test.unit.reviews import AFTER, GRID, session_in

PORT, TOKEN = 8123, "a-secret-of-this-run"
ORIGIN = f"http://127.0.0.1:{PORT}"
CONFIRM = {"kind": "confirm", "lesion": 1}


@dataclass(frozen=True, slots=True)
class Served:
    session: Session
    output: Path
    app: ASGIApp
    # One that has opened the printed address.
    known: TestClient

    @property
    def stranger(self) -> TestClient:
        """One that has not."""
        return client(self.app)


def client(app: ASGIApp) -> TestClient:
    return TestClient(app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=True)


@contextmanager
def serving(folder: Path, *, is_read_only: bool = False) -> Iterator[Served]:
    session = session_in(folder, is_read_only=is_read_only)
    app = make_app(session, folder / "result", token=TOKEN, port=PORT)
    known = client(app)
    assert known.get(f"/?token={TOKEN}").status_code == 303
    yield Served(session, folder / "result", app, known)
    session.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as begun:
        yield begun


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """For requests that change nothing."""
    with serving(tmp_path_factory.mktemp("review")) as begun:
        yield begun


def post(browser: TestClient, content: object, address: str = "/api/decisions", **headers: str) -> httpx.Response:
    return browser.post(address, json=content, headers={"Origin": ORIGIN, **headers})


def test_printed_address_gives_a_cookie_that_no_script_and_no_other_site_has(untouched: Served) -> None:
    answer = untouched.stranger.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert f"longilesion-review-{PORT}={TOKEN}" in cookie
    assert {"HttpOnly", "SameSite=Strict"} <= set(cookie.split("; "))
    page = untouched.known.get("/")
    assert page.status_code == 200
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "http" not in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"


def test_page_names_nothing_elsewhere(untouched: Served) -> None:
    assert {path.name for path in _PAGE.iterdir()} == {"index.html", "style.css", *_SCRIPTS}
    for name in ("", "style.css", *_SCRIPTS):
        answer = untouched.known.get(f"/{name}")
        assert answer.status_code == 200
        assert "http:" not in answer.text
        assert "https:" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("/", {}, 401),
        ("/?token=wrong", {}, 401),
        (f"/?token={TOKEN}&token={TOKEN}", {}, 401),
        (f"/api/review?token={TOKEN}", {}, 401),
        ("/api/review", {}, 401),
        ("/niivue.js", {}, 401),
        ("/api/review", {"Cookie": f"longilesion-review-{PORT}=wrong"}, 401),
        ("/api/review", {"Cookie": f"longilesion-review-{PORT + 1}={TOKEN}"}, 401),
        ("/api/review", {"Cookie": "\x01=;;,"}, 401),
        # A name of another site that points to this machine.
        (f"/?token={TOKEN}", {"Host": f"evil.example:{PORT}"}, 400),
        (f"/?token={TOKEN}", {"Host": "127.0.0.1"}, 400),
        (f"/?token={TOKEN}", {"Host": f"127.0.0.1:{PORT}.evil.example"}, 400),
        (f"/?token={TOKEN}", {"Origin": "http://evil.example"}, 403),
        (f"/?token={TOKEN}", {"Origin": "null"}, 403),
        (f"/?token={TOKEN}", {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_strangers_are_refused(untouched: Served, address: str, headers: dict[str, str], status: int) -> None:
    answer = untouched.stranger.get(address, headers=headers)
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": f"http://127.0.0.1:{PORT + 1}"}, 403),
        ({"Origin": f"https://127.0.0.1:{PORT}"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": f"http://evil.example:{PORT}", "Host": f"evil.example:{PORT}"}, 400),
    ],
)
def test_changes_asked_for_by_other_sites_are_refused(untouched: Served, headers: dict[str, str], status: int) -> None:
    assert untouched.known.post("/api/decisions", json=CONFIRM, headers=headers).status_code == status
    assert untouched.session.journal.entries == []


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"kind": "format the disk"},
        {"kind": "confirm"},
        {"kind": "confirm", "lesion": "1; --"},
        {"kind": "confirm", "lesion": 0},
        {"kind": "confirm", "lesion": 1, "path": "../../etc/passwd"},
        {"kind": "move", "lesion": 1, "scan": "../secondary", "point_xyz_mm": [0, 0, 0]},
        {"kind": "move", "lesion": 1, "scan": "primary", "point_xyz_mm": [0, 0]},
        {"kind": "move", "lesion": 1, "scan": "primary", "point_xyz_mm": [0, 0, "inf"]},
        {"kind": "draw", "lesion": 1, "added": [[-1, 4]]},
        {"kind": "draw", "lesion": 1, "added": [[0, 10**12]]},
        {"kind": "draw", "lesion": 1, "added": [[0, 0]]},
    ],
)
def test_malformed_decisions_are_refused(untouched: Served, content: object) -> None:
    assert post(untouched.known, content).status_code == 422
    assert untouched.session.journal.entries == []


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        ({"kind": "undo"}, "nothing to undo"),
        ({"kind": "confirm", "lesion": 99}, "lesion 99: unknown"),
        ({"kind": "move", "lesion": 1, "scan": "primary", "point_xyz_mm": [9e9, 0, 0]}, "outside the primary scan"),
        ({"kind": "draw", "lesion": 1, "added": [[10**9, 1]]}, "voxels outside its scan"),
    ],
)
def test_impossible_decisions_are_refused_with_the_reason(untouched: Served, content: object, finding: str) -> None:
    answer = post(untouched.known, content)
    assert answer.status_code == 409
    assert finding in answer.json()["detail"]
    assert untouched.session.journal.entries == []


def test_bodies_that_are_too_large_are_refused_with_a_length_or_without(untouched: Served) -> None:
    headers = {"Origin": ORIGIN, "Content-Type": "application/json"}
    large = b" " * (MOST_BYTES + 1)
    assert untouched.known.post("/api/decisions", content=large, headers=headers).status_code == 413
    pieces = (large[:100_000] for _ in range(MOST_BYTES // 100_000 + 1))
    assert untouched.known.post("/api/decisions", content=pieces, headers=headers).status_code == 413
    said = {**headers, "Content-Length": "9" * 30}
    assert untouched.known.post("/api/decisions", content=b"{}", headers=said).status_code == 413
    assert untouched.known.post("/api/decisions", content=b"{", headers=headers).status_code == 422
    assert untouched.session.journal.entries == []


@pytest.mark.parametrize(
    "address",
    [
        "/../journal.jsonl",
        "/..%2f..%2fetc%2fpasswd",
        "/api/results/..%2fjournal.jsonl",
        "/api/results/journal.jsonl",
        "/api/results/%2fetc%2fpasswd",
        "/api/baseline/..%2fprimary/scan.nii.gz",
        "/api/followup/secondary/scan.nii.gz",
        "/api/outlines/99",
        "/api/outlines/..",
        "/api/neighbourhoods/99/scan.nii.gz",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/review.py",
        "/index.html",
    ],
)
def test_addresses_that_there_are_not_are_not_found(untouched: Served, address: str) -> None:
    assert untouched.known.get(address).status_code in (404, 422)


def test_other_methods_are_refused(untouched: Served) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        answer = untouched.known.request(method, "/api/decisions", headers={"Origin": ORIGIN})
        assert answer.status_code == 405
    assert untouched.known.get("/api/decisions").status_code == 405


def test_read_only_review_is_shown_and_refuses_every_change(tmp_path: Path) -> None:
    with serving(tmp_path, is_read_only=True) as served:
        assert served.known.get("/api/review").json()["is_read_only"] is True
        for content in (CONFIRM, {"kind": "undo"}, {"kind": "new", "scan": "primary", "point_xyz_mm": AFTER[4][0]}):
            assert post(served.known, content).status_code == 403
        assert post(served.known, None, "/api/finish").status_code == 403
        assert not served.output.exists()
        # Made on the fly, and written nowhere.
        assert served.known.get("/api/results/review.json").json()["is_complete"] is False


def test_decision_is_in_the_journal_once_it_is_answered(served: Served) -> None:
    answer = post(served.known, CONFIRM)
    assert answer.status_code == 200
    (row,) = (row for row in answer.json()["lesions"] if row["id"] == 1)
    assert (row["verdict"], row["reader"]) == ("confirmed", "A. Reader")
    assert '"confirm"' in served.session.journal.path.read_text().splitlines()[-1]


def test_outline_follows_a_moved_click(served: Served) -> None:
    known = served.known
    before = known.get("/api/outlines/3").json()
    assert before["voxels"] == []
    move = {"kind": "move", "lesion": 3, "scan": "primary", "point_xyz_mm": AFTER[4][0]}
    answer = post(known, move).json()
    (row,) = (row for row in answer["lesions"] if row["id"] == 3)
    assert (row["verdict"], row["stage"], answer["pending"]) == ("moved", "preview", 1)
    after = known.get("/api/outlines/3").json()
    assert row["outline"] == after["outline"] != before["outline"]
    assert sum(count for _, count in after["voxels"]) > 0
    assert row["followup"]["volume_ml"] > 0
    served.session.wait()
    later = known.get("/api/review").json()
    assert later["pending"] == 0
    assert later["revision"] > answer["revision"]


def test_neighbourhood_is_a_part_of_the_scan_in_its_own_voxels(untouched: Served) -> None:
    answer = untouched.known.get("/api/neighbourhoods/1/scan.nii.gz")
    start, stop, size = np.array(answer.headers["place"].split(), int).reshape(3, 3)
    assert tuple(size) == GRID.shape_zyx
    part = Nifti1Image.from_bytes(gzip.decompress(answer.content))
    whole = Nifti1Image.from_bytes(gzip.decompress(untouched.known.get("/api/followup/primary/scan.nii.gz").content))
    box = tuple(slice(low, high) for low, high in zip(start[::-1], stop[::-1], strict=True))
    np.testing.assert_array_equal(np.asarray(part.dataobj), np.asarray(whole.dataobj)[box])
    np.testing.assert_allclose(part.affine[:3, 3], (whole.affine @ [*start[::-1], 1])[:3])


def test_finished_review_is_written_and_what_is_downloaded_is_the_same(served: Served) -> None:
    post(served.known, {"kind": "gone", "lesion": 1})
    answer = post(served.known, None, "/api/finish").json()
    assert answer["is_written"] is True
    names = served.known.get("/api/results").json()
    assert (
        sorted(names)
        == sorted(path.name for path in served.output.iterdir())
        == ["lesions.mha", "report.json", "review.json"]
    )
    assert served.known.get("/api/results/lesions.mha").content == (served.output / "lesions.mha").read_bytes()
    # Decisions go on, and are not in what was written.
    assert post(served.known, {"kind": "undo"}).json()["is_written"] is False


def test_result_that_cannot_be_written_is_said(served: Served) -> None:
    served.output.parent.mkdir(exist_ok=True)
    served.output.write_text("in the way")
    answer = post(served.known, None, "/api/finish")
    assert answer.status_code == 409
    assert str(served.output) in answer.json()["detail"]
    assert served.known.get("/api/review").json()["is_written"] is False


@pytest.fixture(scope="module")
def listening(untouched: Served) -> Iterator[int]:
    """The port of a real server."""
    with listen(0) as taken:
        port = taken.getsockname()[1]
        app = make_app(untouched.session, untouched.output, token=TOKEN, port=port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        taken.listen()
        thread.start()
        yield port
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    ("request_lines", "status"),
    [
        (["GET /?token=TOKEN HTTP/1.1", "Host: 127.0.0.1:PORT"], 303),
        (["GET /api/review HTTP/1.1", "Host: 127.0.0.1:PORT", "Cookie: longilesion-review-PORT=TOKEN"], 200),
        (["GET /?token=TOKEN HTTP/1.1"], 400),
        (["GET /?token=TOKEN HTTP/1.0"], 400),
        (["GET /?token=TOKEN HTTP/1.1", "Host: 127.0.0.1:PORT", "Host: evil.example"], 400),
        (["GET http://evil.example/?token=TOKEN HTTP/1.1", "Host: evil.example"], 400),
        (["GET /../../etc/passwd HTTP/1.1", "Host: 127.0.0.1:PORT", "Cookie: longilesion-review-PORT=TOKEN"], 404),
        (["GET /%00 HTTP/1.1", "Host: 127.0.0.1:PORT", "Cookie: longilesion-review-PORT=TOKEN"], 404),
        (["NONSENSE"], 400),
        (
            [
                "POST /api/decisions HTTP/1.1",
                "Host: 127.0.0.1:PORT",
                "Origin: http://127.0.0.1:PORT",
                "Cookie: longilesion-review-PORT=TOKEN",
                "Content-Length: 5000000",
            ],
            413,
        ),
    ],
)
def test_raw_requests_to_a_real_server(listening: int, request_lines: list[str], status: int) -> None:
    text = "\r\n".join([*request_lines, "Connection: close", "", ""])
    with socket.create_connection(("127.0.0.1", listening), timeout=10) as connection:
        connection.sendall(text.replace("PORT", str(listening)).replace("TOKEN", TOKEN).encode())
        answer = connection.makefile("rb").readline().decode()
    assert answer.split()[1] == str(status)
