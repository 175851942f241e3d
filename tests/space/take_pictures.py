"""Take the pictures of the page for README and docs anew, with the weights of `hub/checkpoint`.

    python tests/space/take_pictures.py

It starts the page, gives it the images in `examples/`, and writes `examples/page.png` and `docs/images/page-*`. It
needs Playwright and `chromium`.
"""

import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[2]
IMAGES = sorted((ROOT / "examples").glob("*.jpg"))


def main() -> None:
    """Take all pictures."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        free.close()
        environment = os.environ | {"GRADIO_TEMP_DIR": folder, "GRADIO_SERVER_PORT": address.rpartition(":")[2]}
        server = subprocess.Popen([sys.executable, str(ROOT / "app.py")], env=environment)
        try:
            wait_for(address, server)
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                take(browser.new_page(viewport={"width": 1366, "height": 860}), address)
                phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True).new_page()
                answer(phone, address, IMAGES[-2:])
                save(phone, ROOT / "docs" / "images" / "page-phone.png")
                browser.close()
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Wait until the page answers; fail if its server ended."""
    while server.poll() is None:
        try:
            httpx.get(address, timeout=30)
            return
        except httpx.HTTPError:
            time.sleep(1)
    sys.exit("the server ended")


def answer(page: Page, address: str, images: list[Path]) -> None:
    """Open the page and have it answer images."""
    page.set_default_timeout(600_000)
    page.goto(address)
    page.locator("#files input[type=file]").wait_for(state="attached")
    page.locator(".drop input").set_input_files(images)
    page.locator("body.busy").wait_for(state="attached")
    page.locator("body:not(.busy)").wait_for(state="attached")
    page.wait_for_timeout(1000)


def take(page: Page, address: str) -> None:
    """Take the pictures of gallery and field."""
    answer(page, address, IMAGES)
    page.locator(".tile.doubtful, .tile").first.click()
    page.evaluate("scrollTo(0, 0)")
    save(page, ROOT / "examples" / "page.png")
    page.locator("[data-view=field]").click()
    page.locator(".field-bar select").select_option(label=field_with_most_cells(page))
    page.wait_for_timeout(500)
    save(page, ROOT / "docs" / "images" / "page-field.jpg")


def field_with_most_cells(page: Page) -> str:
    """The label of the field, "name (cells)", that has the most cells."""
    labels = page.locator(".field-bar option").all_inner_texts()
    return max(labels, key=lambda label: int(label.rpartition("(")[2].rstrip(")")))


def save(page: Page, path: Path) -> None:
    """Save what the window shows, with the pointer out of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    page.mouse.move(0, 0)
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(path, optimize=True, quality=88)


if __name__ == "__main__":
    main()
