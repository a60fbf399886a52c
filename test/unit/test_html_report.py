"""The report for people: what is on the page, and whether a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from longilesion.case import LesionMap, Scan, lesion_regions
from longilesion.course import CourseRecord, TimePointRecord, course_of, record_of
from longilesion.geometry import Grid
from longilesion.html_report.charts import spider, waterfall
from longilesion.html_report.page import Load, make_page, write_page
from longilesion.html_report.picture import PIXELS, Shown, pictures
from longilesion.timeline import TimePoint
from test.unit.builders import scan_with
from test.unit.series import BESIDE, MIDDLE, seen

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def course(scan: str = "scan.nii.gz", *, unsure: Sequence[int] = ()) -> tuple[CourseRecord, list[Load | None]]:
    """Two lesions, one of which vanishes, a scan that failed, and one at which both are there again."""
    points = [TimePoint.given(seen(number, lesions)) for number, lesions in enumerate(LESIONS)]
    records = []
    for number, point in enumerate(points, start=1):
        on = date(2026, number, 1)
        made = record_of(point, number=number + (number > 2), scan=scan, made_of="", on=on)
        lesions = [lesion.model_copy(update={"unsure": lesion.id in unsure}) for lesion in made.lesions]
        records.append(made.model_copy(update={"lesions": lesions}))
    records.insert(2, TimePointRecord(number=3, scan=scan, fingerprint="", error="damaged <b>file</b>", on=None))
    loads: list[Load | None] = [_load(point) for point in points]
    loads.insert(2, None)
    return course_of(records)[0], loads


LESIONS = ({1: MIDDLE, 2: BESIDE}, {1: MIDDLE}, {1: MIDDLE, 2: BESIDE})


def _load(point: TimePoint) -> Load:
    return lambda: (point.visit.baselines["primary"].scan, point.lesions)


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(make_page(*course(unsure=[2]), model="model"))


def test_page_needs_nothing_but_itself(page: Page) -> None:
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "action", "data"):
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:80])
    assert page.of("script") == page.of("link") == page.of("iframe") == []


def test_every_lesion_has_a_picture_of_each_scan_that_shows_it(page: Page) -> None:
    texts = [image["alt"] for image in page.of("img")]
    assert len(texts) == 5
    assert sum("outlined" in (text or "") for text in texts) == 5
    assert len(page.of("article")) == 2
    # The lesion to look at comes first.
    assert [article["id"] for article in page.of("article")] == ["lesion-2", "lesion-1"]
    assert page.text.count("look at it") == 2


def test_page_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.of("html") == [{"lang": "en"}]
    assert len(page.of("h1")) == len(page.of("main")) == 1
    assert all(image.get("alt") for image in page.of("img"))
    assert all(figure.get("aria-label") for figure in page.of("figure") if figure.get("role") == "img")
    assert all(cell.get("scope") for cell in page.of("th"))
    ids = [
        attributes["id"] for tag, attributes in page.elements if "id" in attributes and tag in ("h2", "h3", "article")
    ]
    assert len(ids) == len(set(ids))
    named = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert named <= set(ids)
    targets = {(link["href"] or "").removeprefix("#") for link in page.of("a")}
    assert targets <= set(ids)


def test_texts_of_files_stay_texts() -> None:
    made = make_page(*course("<script>alert(1)</script>&.nii"), model="<i>m</i>")
    assert "<script>" not in made
    assert "<i>m</i>" not in made
    assert "damaged <b>" not in made
    page = Page(made)
    assert "<script>alert(1)</script>&.nii" in page.text
    assert "damaged <b>file</b>" in page.text


def test_page_says_what_the_response_is_and_what_it_is_worth(page: Page) -> None:
    text = re.sub(r"\s+", " ", page.text)
    assert "Research use only" in text
    assert "RECIST 1.1" in text
    assert "scan could not be gone through" in text
    assert "Best response" in text


def test_course_of_one_scan_has_a_page_without_response() -> None:
    point = TimePoint.given(seen(0, {1: MIDDLE}))
    record = record_of(point, number=1, scan="a", made_of="", on=None)
    page = Page(make_page(course_of([record])[0], [_load(point)], model="m"))
    assert "it needs two scans" in page.text
    assert len(page.of("img")) == 1


def test_charts_need_a_change() -> None:
    alone = course_of([record_of(TimePoint.given(seen(0, {1: MIDDLE})), number=1, scan="a", made_of="", on=None)])[0]
    assert waterfall(alone) is None
    assert spider(alone) is None


def test_lines_over_a_picture_lie_on_the_lesion() -> None:
    """A box of 24 x 12 mm in an oblique, flipped grid: its diagonal is the longest diameter."""
    grid = Grid.from_spacing((12, 60, 60), (2.0, 0.8, 0.8), direction=np.diag([-1.0, 1.0, -1.0]))
    ids = np.zeros(grid.shape_zyx, np.uint16)
    ids[4:8, 20:35, 20:50] = 5
    scan = Scan(hu=np.where(ids > 0, 100, 0).astype(np.int16), grid=grid)
    lesions = LesionMap(ids=ids, grid=grid)
    shown = Shown(scan=scan, lesions=lesions, region=lesion_regions(ids)[5], place_xyz_mm=None)
    (picture,) = pictures(5, [shown])
    assert picture is not None
    assert picture.longest is not None
    assert picture.perpendicular is not None
    longest = np.hypot(24.0, 12.0)
    mm = 2.2 * longest / PIXELS
    ends = np.array(picture.longest)
    assert np.linalg.norm(ends[0] - ends[1]) * mm == pytest.approx(longest, rel=0.02)
    across = np.array(picture.perpendicular)
    assert np.dot(across[0] - across[1], ends[0] - ends[1]) == pytest.approx(0, abs=20)
    outline = np.array([[float(value) for value in pair.split(",")] for pair in picture.outline[0].split()])
    assert np.ptp(outline[:, 0]) * mm == pytest.approx(24.0, abs=0.8)
    assert np.ptp(outline[:, 1]) * mm == pytest.approx(12.0, abs=0.8)
    for end in [*ends, *across]:
        assert np.linalg.norm(outline - end, axis=1).min() * mm < 1.2


def test_all_pictures_of_a_lesion_have_one_scale_and_window() -> None:
    grid = Grid.from_spacing((10, 80, 80), (2.0, 1.0, 1.0))
    shown = []
    for radius in (5.0, 15.0):
        scan, lesions = scan_with({1: ((40.0, 40.0, 10.0), radius)}, grid)
        shown.append(Shown(scan=scan, lesions=lesions, region=lesion_regions(lesions.ids)[1], place_xyz_mm=None))
    gone = Shown(
        scan=shown[0].scan,
        lesions=LesionMap(ids=np.zeros(grid.shape_zyx, np.uint16), grid=grid),
        region=None,
        place_xyz_mm=(40.0, 40.0, 10.0),
    )
    small, large, nothing, missing = pictures(1, [*shown, gone, None])
    assert small is not None
    assert large is not None
    assert nothing is not None
    assert missing is None
    lengths = [np.linalg.norm(np.subtract(*each.longest)) for each in (small, large) if each.longest is not None]
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=0.15)
    assert nothing.outline == ()
    assert nothing.longest is None


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_a_browser_shows_the_page_without_complaint(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    made, loads = course(unsure=[2])
    write_page(path, made, loads, model="model")
    run = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"),
            *("--window-size=1200,2400", f"--screenshot={tmp_path / 'page.png'}", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "CONSOLE" not in run.stderr
    picture = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    yellow = (picture[..., 0] > 200) & (picture[..., 1] > 180) & (picture[..., 2] < 90)
    # The diameters that are drawn over the pictures.
    assert yellow.sum() > 100
