"""One server, one browser and one classifier for all tests of the Space."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from gradio_client import Client
from PIL import Image
from playwright.sync_api import sync_playwright

from hub.data.synthetic import draw_field
from hub.publish.space import stage
from space.classifier import Classifier

CHECKPOINT = Path(__file__).parents[2] / "hub" / "checkpoint"


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    """The address of the staged Space: nothing but its folder, another working directory, and no network."""
    folder, elsewhere = tmp_path_factory.mktemp("staged"), tmp_path_factory.mktemp("elsewhere")
    stage(folder, "someone/wbc", "someone/model", "someone/dataset")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("gradio"))}
    environment |= {"WBC_MODEL": str(CHECKPOINT), "GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen([sys.executable, str(folder / "app.py"), "--mcp"], cwd=elsewhere, env=environment)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            httpx.get(address, timeout=30)
            break
        except httpx.HTTPError:
            assert process.poll() is None, "the server ended"
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="session")
def connect(url):
    """Make a client of its own."""

    def connect():
        # Without the check, gradio_client does not read all certificates anew for each request.
        return Client(url, verbose=False, ssl_verify=False, httpx_kwargs={"timeout": 120})

    return connect


@pytest.fixture(scope="session")
def client(connect):
    return connect()


@pytest.fixture(scope="session")
def classifier():
    return Classifier(str(CHECKPOINT))


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, url):
    """Opens the page; at the end there must be no error in the console and no request to another host."""
    complaints, other_hosts, contexts = [], [], []

    def heard(message):
        # Gradio's own client warns so whenever it closes a stream of events.
        if message.type in ("error", "warning") and message.text != "Method not implemented.":
            complaints.append(message.text)

    def visit(**options):
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1440, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith("http") and url not in request.url and other_hosts.append(request.url)
            ),
        )
        page.goto(url)
        page.locator("#bench .cell .verdict").wait_for()
        # The upload field is Gradio's, and out of sight.
        page.locator("#files input[type=file]").wait_for(state="attached")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    assert other_hosts == []


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Drawn fields of one cell each, `<type>-<seed>.png`, and one of six cells."""
    folder = tmp_path_factory.mktemp("drawn")
    for label in ("eosinophil", "lymphocyte", "monocyte", "neutrophil"):
        for seed in range(8):
            draw_field(label, seed).save(folder / f"{label}-{seed}.png")
    six = Image.new("RGB", (960, 480))
    for k in range(6):
        six.paste(draw_field(("lymphocyte", "neutrophil")[k % 2], k), (k % 3 * 320, k // 3 * 240))
    six.save(folder / "six.png")
    return folder


@pytest.fixture(scope="session")
def known(classifier, folder):
    """A drawn field whose cell the model knows, and the answer to it."""
    for path in sorted(folder.glob("*-*.png")):
        ((answer, _),) = classifier.answers([(path.name, str(path))], 64)
        if answer["status"] == "sure":
            return path, answer
    raise AssertionError("no drawn cell is known to the model")
