"""The server of the page: fixed addresses only, none of which is ever taken for a file's name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp

from longilesion.case import ScanName
from longilesion.errors import InputError
from longilesion.review.decisions import Action
from longilesion.review.guard import Guard
from longilesion.review.output import RECORD, REPORT, map_names
from longilesion.review.runs import Runs
from longilesion.review.session import ReadOnlyError, Session
from longilesion.review.view import OutlineView, ReviewView
from longilesion.review.viewer import Viewer
from longilesion.review.volume import RasVolume
from longilesion.shipped import VIEWER_FILE

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("main.js", "actions.js", "dialogs.js", "drawing.js", "list.js", "review.js", "server.js", "views.js")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_Thing = TypeVar("_Thing")

_VOLUME = "application/octet-stream"


def make_app(session: Session, output: Path, *, token: str, port: int) -> ASGIApp:
    """The application; results are written to `output` when the page says that the review is finished."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    viewer = Viewer(session)
    _add_pages(app)
    _add_views(app, viewer)
    _add_changes(app, session, viewer, output)
    _add_errors(app)
    return Guard(app, token=token, port=port)


def _add_pages(app: FastAPI) -> None:
    files = {"/": _PAGE / "index.html", "/style.css": _PAGE / "style.css", "/niivue.js": VIEWER_FILE}
    files |= {f"/{name}": _PAGE / name for name in _SCRIPTS}
    for address, path in files.items():
        app.get(address)(_page(path))


def _page(path: Path) -> Callable[[], Response]:
    content = path.read_bytes()
    return lambda: Response(content, media_type=_TYPES[path.suffix])


def _add_views(app: FastAPI, viewer: Viewer) -> None:
    session = viewer.session

    @app.get("/api/review")
    def review() -> ReviewView:
        return viewer.review()

    @app.get("/api/outlines/{lesion_id}")
    def outline(lesion_id: int) -> OutlineView:
        return _found(viewer.outline(lesion_id))

    @app.get("/api/baseline/{name}/outlines")
    def baseline_outlines(name: ScanName) -> dict[int, Runs]:
        _found(viewer.baselines.get(name))
        return viewer.baseline_outlines(name)

    @app.get("/api/baseline/{name}/scan.nii.gz")
    def baseline_scan(name: ScanName) -> Response:
        return _scan(viewer.baselines.get(name))

    @app.get("/api/followup/{name}/scan.nii.gz")
    def followup_scan(name: ScanName) -> Response:
        return _scan(session.volumes.get(name))

    @app.get("/api/neighbourhoods/{lesion_id}/scan.nii.gz")
    def neighbourhood(lesion_id: int) -> Response:
        volume, box = _found(viewer.neighbourhood(lesion_id))
        place = [*(side.start for side in box), *(side.stop for side in box), *volume.grid.shape_zyx]
        return Response(volume.part_nifti(box), media_type=_VOLUME, headers={"Place": " ".join(map(str, place))})


def _add_changes(app: FastAPI, session: Session, viewer: Viewer, output: Path) -> None:
    @app.post("/api/decisions")
    def decide(action: Annotated[Action, Body()]) -> ReviewView:
        session.decide(action)
        return viewer.review()

    @app.post("/api/finish")
    def finish() -> ReviewView:
        session.finish(output)
        return viewer.review()

    dicom = session.patient.dicom
    names = [REPORT, RECORD, *map_names(session.patient.scans).values(), *(() if dicom is None else dicom.names)]

    @app.get("/api/results")
    def results() -> list[str]:
        return names

    @app.get("/api/results/{name}")
    def result(name: str) -> Response:
        if name not in names:
            raise HTTPException(404, "unknown")
        with tempfile.TemporaryDirectory() as folder:
            if Path(folder) / name not in session.write(Path(folder)):
                raise HTTPException(404, f"no {name}: no lesion has an outline that would be in it")
            content = (Path(folder) / name).read_bytes()
        return Response(content, media_type=_VOLUME, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(InputError)
    def impossible(_: Request, error: InputError) -> Response:
        return JSONResponse({"detail": str(error)}, status_code=409)

    @app.exception_handler(ReadOnlyError)
    def read_only(_: Request, error: ReadOnlyError) -> Response:
        return JSONResponse({"detail": str(error)}, status_code=403)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> Response:
        # Without what was sent, which may be large.
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        return JSONResponse({"detail": reason}, status_code=422)


def _scan(volume: RasVolume | None) -> Response:
    return Response(_found(volume).nifti, media_type=_VOLUME)


def _found(thing: _Thing | None) -> _Thing:
    if thing is None:
        raise HTTPException(404, "unknown")
    return thing
