"""The page of a review in a real browser: decisions by key and mouse, a killed server, and the result."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from longilesion.bundle import save_bundle
from longilesion.config import AlignmentSettings
from longilesion.ensemble import load_ensemble
from longilesion.grand_challenge import read_case
from longilesion.images import open_image, read_lesion_map
from longilesion.review.decisions import Start
from longilesion.review.journal import FILE_NAME, Journal
from longilesion.review.record import ReviewRecord
from longilesion.review.session import Patient, Session
from test.unit.reviews import Program, write_review_case
from test.unit.test_html_viewer import CHROMIUM, OPTIONS

pytestmark = pytest.mark.slow


@dataclass
class Review:
    """A program, and its page in a browser; `said` is what the page has complained of, and what it has asked others."""

    folder: Path
    bundle: Path
    browser: Browser
    said: list[str] = field(default_factory=list)

    def start(self) -> None:
        self.program = Program(self.folder / "case", "--output", self.folder / "out", "--model", self.bundle)
        self.page = self.browser.new_page(viewport={"width": 1280, "height": 720})
        self.page.on("console", lambda message: self.said.append(message.text) if message.type != "info" else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        server = self.program.address.partition("?")[0]
        self.page.on("request", lambda asked: self.note(asked.url, server))
        self.page.goto(self.program.address)
        self.ready()

    def note(self, address: str, server: str) -> None:
        if not address.startswith((server, "data:", "blob:")):
            self.said.append(address)

    def ready(self) -> None:
        self.page.locator("body[data-ready]").wait_for(timeout=90_000)

    def status(self, text: str) -> None:
        self.page.locator("#status").filter(has_text=re.compile(text)).wait_for(timeout=30_000)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def choose(self, lesion_id: int) -> None:
        self.page.locator(f'[data-lesion="{lesion_id}"]').click()
        self.status(f"^Lesion {lesion_id}:")

    def verdict(self, lesion_id: int) -> str:
        return self.page.locator(f'[data-lesion="{lesion_id}"] .verdict').get_attribute("class").split()[-1]

    def outlined(self) -> np.ndarray:
        """The pixels of the chosen lesion's outline in the follow-up."""
        content = self.page.locator("#canvas-followup").screenshot()
        red, green, blue = np.moveaxis(np.asarray(Image.open(BytesIO(content)).convert("RGB")).astype(int), -1, 0)
        return (red > 180) & (green > 150) & (blue < 120)


@pytest.fixture(scope="module")
def follower(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """A model that outlines the block around a click, wherever it is."""
    member = load_ensemble(bundle, device="cpu").only_member
    settings = member.settings.model_copy(update={"alignment": AlignmentSettings(method="clicks")})
    folder = tmp_path_factory.mktemp("follower")
    save_bundle(folder, settings, member.networks, provenance={"data": "none"})
    return folder


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory, follower: Path) -> Iterator[Review]:
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    folder = tmp_path_factory.mktemp("review")
    write_review_case(folder / "case")
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        begun = Review(folder, follower, browser)
        begun.start()
        yield begun
        browser.close()
    begun.program.process.kill()
    begun.program.process.communicate()


def test_everything_has_a_name_and_contrast(review: Review) -> None:
    found = Axe().run(review.page)
    assert found.violations_count == 0, found.generate_report()
    review.press("?")
    found = Axe().run(review.page)
    assert found.violations_count == 0, found.generate_report()
    assert "next lesion to review" in (review.page.text_content("#help-keys") or "")
    review.press("Escape")
    assert review.said == []


def test_lesions_are_confirmed_moved_and_gone_by_key(review: Review) -> None:
    review.choose(1)
    review.press("c")
    review.status("^Lesion [23]")
    assert review.verdict(1) == "confirmed"
    review.choose(2)
    before = review.outlined()
    assert before.sum() > 20
    # The cursor moves, the outline only follows once it is told to.
    review.press(*["ArrowLeft"] * 6, *["ArrowUp"] * 4)
    assert (review.outlined() & before).sum() > 0.5 * before.sum()
    review.press("m")
    review.status("^saved")
    assert review.verdict(2) == "moved"
    after = review.outlined()
    assert after.sum() > 20
    assert (after & before).sum() < 0.5 * before.sum()
    review.page.locator("#stage.full").wait_for(timeout=30_000)
    review.choose(3)
    review.press("g")
    review.page.locator('[data-lesion="3"] .verdict.gone').wait_for(timeout=10_000)
    review.choose(1)
    review.page.locator("#undo").click()
    # What was undone is shown.
    review.status("^Lesion 3:")
    assert review.verdict(3) == "untouched"
    review.press("Control+y")
    review.status("^done again")
    assert review.verdict(3) == "gone"
    assert review.page.text_content("#progress-text") == "3 of 3 lesions reviewed"
    # The second one before the first is answered.
    review.choose(1)
    review.page.evaluate("for (const key of ['g', 'c']) dispatchEvent(new KeyboardEvent('keydown', { key }))")
    review.page.locator('#undo[title^="Undo: confirm, lesion 1"]').wait_for(timeout=10_000)
    kept = [
        json.loads(line)["action"]["kind"] for line in (review.folder / "out" / FILE_NAME).read_text().splitlines()[1:]
    ]
    assert kept[-2:] == ["gone", "confirm"]
    assert review.said == []


def test_voxels_are_drawn_and_erased_with_the_mouse(review: Review) -> None:
    page = review.page
    review.choose(2)
    review.press("d")
    review.status("^Draw in the follow-up")
    box = page.locator("#canvas-followup").bounding_box()
    assert box is not None
    # The axial plane is the upper part, and the cursor is in the middle of the lesion.
    x, y = box["x"] + 0.5 * box["width"], box["y"] + 0.28 * box["height"]
    page.mouse.move(x + 70, y)
    page.mouse.down()
    page.mouse.move(x + 90, y, steps=3)
    page.mouse.up()
    review.status("^saved")
    drawn = re.search(r"drawn\+(\d+) -0 voxels", page.text_content("#facts") or "")
    assert drawn is not None
    review.press("e")
    page.mouse.move(x + 70, y)
    page.mouse.down()
    page.mouse.move(x + 75, y, steps=2)
    page.mouse.up()
    page.locator("#facts").filter(has_not_text=drawn[0]).wait_for(timeout=10_000)
    less = re.search(r"drawn\+(\d+) ", page.text_content("#facts") or "")
    assert less is None or int(less[1]) < int(drawn[1])
    review.press("Control+z")
    page.locator("#facts").filter(has_text=drawn[0]).wait_for(timeout=10_000)
    review.press("Escape")
    page.locator("#actions").wait_for()
    assert review.said == []


def test_new_lesion_is_added_at_the_cursor(review: Review) -> None:
    review.choose(1)
    review.press(*["ArrowUp"] * 8, "n")
    review.status("^Lesion 4:")
    assert review.verdict(4) == "new"
    # Beside it, the place in the baseline that corresponds.
    assert review.page.locator("#empty-baseline").is_hidden()
    assert review.page.text_content("#text-baseline") == ""
    assert review.said == []


def test_view_changes_by_key(review: Review) -> None:
    page = review.page
    review.choose(1)
    whole = np.asarray(Image.open(BytesIO(page.locator("#canvas-followup").screenshot())))
    for key, button in (("2", "lung"), ("s", "sagittal"), ("p", "all"), ("1", "soft tissue")):
        review.press(key)
        assert page.locator(f'[data-action="{button}"]').get_attribute("aria-pressed") == "true"
    review.press("v")
    assert page.locator('[data-action="outlines"]').get_attribute("aria-pressed") == "false"
    assert review.outlined().sum() == 0
    review.press("v", "z")
    magnified = np.asarray(Image.open(BytesIO(page.locator("#canvas-followup").screenshot())))
    assert (magnified != whole).any()
    review.press("z", "j", "k")
    review.status("^Lesion 1:")
    assert review.said == []


def state_of(review: Review) -> dict[int, str]:
    ids = [int(row.get_attribute("data-lesion") or 0) for row in review.page.locator("[data-lesion]").all()]
    return {lesion_id: review.verdict(lesion_id) for lesion_id in ids}


def test_killed_server_and_closed_tab_lose_no_decision_and_the_result_is_the_journals(review: Review) -> None:
    before = state_of(review)
    assert before == {1: "confirmed", 2: "drawn", 3: "gone", 4: "new"}
    review.page.reload()
    review.ready()
    assert state_of(review) == before
    assert review.said == []
    review.program.ended(signal.SIGKILL)
    review.press("c")
    review.status("does not answer. What was decided is kept")
    review.page.close()
    # It was killed while it wrote a line.
    with (review.folder / "out" / FILE_NAME).open("ab") as file:
        file.write(b'{"number":')
    # The refused connection is all that was complained of.
    assert all("ERR_CONNECTION_REFUSED" in line for line in review.said), review.said
    review.said.clear()
    review.start()
    assert state_of(review) == before
    review.press("f")
    review.page.locator("#write").click()
    review.page.locator("#finishing-text").filter(has_text="Written").wait_for(timeout=60_000)
    assert review.said == []
    code, said = review.program.ended(signal.SIGTERM)
    assert (code, "torn" in said) == (0, True)
    check_result(review)


def check_result(review: Review) -> None:
    """What was written is what the journal alone makes of the case."""
    out = review.folder / "out"
    case, scans = read_case(review.folder / "case")
    start = Start.model_validate_json((out / FILE_NAME).read_text().splitlines()[0])
    ensemble = load_ensemble(review.bundle, device="cpu", precision="float32")
    patient = Patient(case=case, scans={name: open_image(path) for name, path in scans.items()})
    session = Session(patient, ensemble, Journal(out, start, is_read_only=True), is_read_only=True)
    session.write(review.folder / "again")
    session.close()
    written, again = (read_lesion_map(folder / "lesions.mha") for folder in (out, review.folder / "again"))
    np.testing.assert_array_equal(written.ids, again.ids)
    records = [
        ReviewRecord.model_validate_json((folder / "review.json").read_bytes())
        for folder in (out, review.folder / "again")
    ]
    assert records[0].lesions == records[1].lesions
    rows = {row.id: row for row in records[0].lesions}
    assert rows[2].moved_mm is not None
    assert rows[2].moved_mm > 5
    assert rows[2].voxels_added > 0
    assert (rows[3].voxels, rows[4].is_new) == (0, True)
    assert records[0].is_complete
