"""What tests of the page do in a browser."""

import json
import struct
import zipfile
from pathlib import Path

import axe_playwright_python
from playwright.sync_api import Page, expect

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "outputs" / "screenshots"
LANDSCAPE, DESK, PHONE = ({"width": w, "height": h} for w, h in ((1366, 650), (1440, 900), (390, 844)))


def drop(page: Page, *paths: Path) -> None:
    """Give the page files, and wait for the answers to them."""
    page.locator(".drop input").set_input_files(paths)
    settle(page)


def settle(page: Page) -> None:
    """Wait until what was asked for is answered."""
    page.locator("body.busy").wait_for(state="attached")
    page.locator("body:not(.busy)").wait_for(state="attached")


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def kept(page: Page) -> dict:
    """The work as the browser keeps it for a reload."""
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    return json.loads(page.evaluate("sessionStorage.getItem('wbc-bench')"))


def groups(page: Page) -> dict[str, list[int]]:
    """The cells of each group of the gallery, as it shows them."""
    return {
        group.get_attribute("data-group"): [
            int(number) for number in group.locator(".tile").evaluate_all("tiles => tiles.map(t => t.dataset.cell)")
        ]
        for group in page.locator(".group").all()
    }


def export(page: Page, kind: str, folder: Path) -> Path:
    """Export the work, and return the file."""
    page.locator(".export > summary").click()
    with page.expect_download() as download:
        page.locator(f"[data-export={kind}]").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def serious_violations(page: Page) -> list[str]:
    """Violations of accessibility rules on a page that axe-core rates serious or critical."""
    page.evaluate(Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [
        f"{violation['id']}: {violation['nodes'][0]['html'][:200]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]


def assert_nothing_is_cut(page: Page) -> None:
    """No part of the page reaches beyond the window, and it cannot be scrolled aside."""
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height as a PNG states them."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def members(path: Path) -> dict[str, bytes]:
    """The files of a ZIP archive, each checked against its sum."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


expect.set_options(timeout=60_000)  # for machines that are busy otherwise
