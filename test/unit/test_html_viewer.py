"""The interactive page: what it holds, and whether a browser shows it and moves to the lesions."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from longilesion import display
from longilesion.case import LesionMap
from longilesion.cli.page import Pages, _address
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.html_report.viewer import make_viewer, write_viewer
from test.unit.builders import scan_with
from test.unit.test_html_report import course

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# A GPU in software.
OPTIONS = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


class Scripts(HTMLParser):
    """The texts of a page's scripts, by their ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = dict(attrs).get("id") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.texts[self._open] = self.texts.get(self._open, "") + data

    def volume(self, name: str) -> Nifti1Image:
        return Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(self.texts[name])))


def test_page_holds_the_scans_and_the_outlines_of_their_lesions_where_they_are() -> None:
    made, loads = course(unsure=[2])
    scripts = Scripts(make_viewer(made, loads))
    data = json.loads(scripts.texts["data"])
    # The third scan failed.
    assert data["numbers"] == [1, 2, 4]
    assert [row["id"] for row in data["lesions"]] == [2, 1]
    for number, load in zip((1, 2, 4), filter(None, loads), strict=True):
        scan, lesions = load()
        shown, edges = scripts.volume(f"scan-{number}"), scripts.volume(f"outlines-{number}")
        hu, grid = scan.grid.lps_view(scan.hu)
        values = np.asarray(shown.dataobj).T
        assert np.abs(values - np.clip(hu, -1024, 2048)).max() <= 2
        # The frame of NIfTI, by nibabel: x and y run the other way.
        corner = np.array(grid.world_xyz_mm((1, 2, 3)))
        np.testing.assert_allclose((shown.affine @ [3, 2, 1, 1])[:3], corner * [-1, -1, 1], atol=1e-4)
        ids, _ = lesions.grid.lps_view(lesions.ids)
        outlines = np.asarray(edges.dataobj).T
        assert not outlines[ids == 0].any()
        for row in data["lesions"]:
            if str(number) in row["places"]:
                place = np.linalg.inv(shown.affine) @ [*row["places"][str(number)], 1]
                x, y, z = np.rint(place[:3]).astype(int)
                assert ids[z, y, x] == row["id"]
                assert outlines[ids == row["id"]].any()


def test_large_scans_are_halved_and_keep_their_lesions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_MOST_VOXELS", 20_000)
    made, loads = course()
    grid = Grid.from_spacing((21, 61, 61), (3.0, 1.0, 1.0))
    scan, _ = scan_with({}, grid)
    ids = np.zeros(grid.shape_zyx, np.uint16)
    ids[10, 30, 30] = 1
    hu = scan.hu.copy()
    hu[10, 30:32, 30:32] = [[100, 200], [300, 400]]
    one = replace(scan, hu=hu)
    (first, *rest) = loads
    assert first is not None
    scripts = Scripts(make_viewer(made, [lambda: (one, LesionMap(ids=ids, grid=grid)), *rest]))
    shown = scripts.volume("scan-1")
    assert shown.shape == (30, 30, 21)
    assert shown.header.get_zooms() == pytest.approx((2, 2, 3))
    values = np.asarray(shown.dataobj).T
    assert values[10, 15, 15] == pytest.approx(250, abs=2)
    # The centre of four voxels.
    place = shown.affine @ [15, 15, 10, 1]
    expected = np.mean([grid.world_xyz_mm((10, y, x)) for y in (30, 31) for x in (30, 31)], axis=0)
    np.testing.assert_allclose(place[:3] * [-1, -1, 1], expected, atol=1e-4)
    assert np.argwhere(np.asarray(scripts.volume("outlines-1").dataobj).T).tolist() == [[10, 15, 15]]


def test_nothing_in_a_file_becomes_a_script() -> None:
    made, loads = course("</script><script>alert(1)</script>")
    broken = made.model_copy(update={"statement": "<img src=x onerror=alert(2)>"})
    page = make_viewer(broken, loads)
    assert "onerror=alert(2)>" not in page
    assert "alert(1)" not in page
    assert re.search(r"default-src 'none'", page)
    # What a script in the page could reach: data of its own only.
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert not re.search(r"https?:|\*", policy[1])


def test_without_any_scan_there_is_nothing_to_show(tmp_path: Path) -> None:
    made, loads = course()
    with pytest.raises(InputError, match="no scan could be gone through"):
        write_viewer(tmp_path / "viewer.html", made, [None] * len(loads))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("viewer_file", "report", "address"),
    [
        ("a/viewer.html", "a/report.html", "viewer.html"),
        ("a/viewer.html", "report.html", "a/viewer.html"),
        ("b/my viewer#1.html", "a/report.html", "../b/my%20viewer%231.html"),
    ],
)
def test_report_refers_to_the_viewer_from_where_it_is(
    tmp_path: Path, viewer_file: str, report: str, address: str
) -> None:
    assert _address(tmp_path / viewer_file, tmp_path / report) == address
    assert Pages(report=None, viewer=tmp_path).wanted == [tmp_path]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, list[str]]]:
    """The page in Debian's Chromium, and what it has complained of or asked the network for."""
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    path = tmp_path_factory.mktemp("viewer") / "viewer.html"
    made, loads = course(unsure=[2])
    write_viewer(path, made, loads)
    said: list[str] = []
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        page = browser.new_page(viewport={"width": 1200, "height": 700})
        page.on("console", lambda message: said.append(message.text) if message.type != "info" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda asked: said.append(asked.url) if asked.url.startswith(("http", "ws")) else None)
        page.goto(f"{path.as_uri()}#lesion-1")
        page.locator("#status").filter(has_text=re.compile("^Lesion")).wait_for(timeout=60_000)
        yield page, said
        browser.close()


def picture(page: Page, side: str) -> np.ndarray:
    content = page.locator(f"#canvas-{side}").screenshot()
    return np.asarray(Image.open(BytesIO(content)).convert("RGB")).astype(int)


def test_choosing_a_lesion_moves_both_views(opened: tuple[Page, list[str]]) -> None:
    page, said = opened
    page.get_by_role("button", name="Lesion 1").click()
    before = {side: picture(page, side) for side in ("left", "right")}
    first = page.text_content("#status")
    page.get_by_role("button", name="Lesion 2").click()
    assert page.text_content("#status") != first
    assert (page.text_content("#status") or "").startswith("Lesion 2: left at ")
    for side, earlier in before.items():
        assert (picture(page, side) != earlier).any()
    assert page.get_by_role("button", name="Lesion 2").get_attribute("aria-current") == "true"
    assert page.url.endswith("#lesion-2")
    assert said == []


def test_scans_windows_and_outlines_can_be_changed(opened: tuple[Page, list[str]]) -> None:
    page, said = opened
    page.get_by_role("button", name="Lesion 1").click()
    outlined = picture(page, "left")
    # The outlines are the only red things.
    red = (outlined[..., 0] > 150) & (outlined[..., 1] < 120) & (outlined[..., 2] < 100)
    assert red.sum() > 20
    page.get_by_role("button", name="outlines").click()
    plain = picture(page, "left")
    assert ((plain[..., 0] > 150) & (plain[..., 1] < 120) & (plain[..., 2] < 100)).sum() == 0
    page.get_by_role("button", name="outlines").click()
    page.get_by_role("button", name="bone").click()
    assert (picture(page, "left") != outlined).any()
    page.get_by_role("button", name="soft tissue").click()
    page.get_by_role("button", name="Lesion 2").click()
    assert "mm, " in (page.text_content("#text-right") or "")
    right = picture(page, "right")
    # It is gone at the second scan.
    page.locator("#right").select_option("2")
    page.locator("#text-right").filter(has_not_text="mm, ").wait_for(timeout=10_000)
    page.wait_for_timeout(300)
    assert (picture(page, "right") != right).any()
    page.locator("#right").select_option("4")
    page.locator("#text-right").filter(has_text="mm, ").wait_for(timeout=10_000)
    assert said == []


def test_page_is_used_by_keyboard_and_has_names_for_everything(opened: tuple[Page, list[str]]) -> None:
    page, _ = opened
    page.get_by_role("button", name="Lesion 1").focus()
    page.keyboard.press("Enter")
    assert (page.text_content("#status") or "").startswith("Lesion 1")
    for tag in ("button", "select", "canvas"):
        for element in page.locator(tag).all():
            name = element.get_attribute("aria-label") or element.text_content() or ""
            assert name.strip(), tag
    assert page.locator("html").get_attribute("lang") == "en"
