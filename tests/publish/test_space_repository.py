"""The Space's repository on the Hub: its files, its card, and the demo that runs from it."""

import importlib.metadata
import re
import socket
import subprocess
import sys
import time

import httpx
import pytest
import yaml
from gradio_client import Client, handle_file

from tests.publish.clients import DATASET, MODEL, ROOT, SPACE, environment


@pytest.fixture(scope="module")
def space(hub, published, tmp_path_factory):
    """The address of the Space as its repository holds it, in a folder of its own, with the model from the Hub."""
    folder, home = tmp_path_factory.mktemp("space"), tmp_path_factory.mktemp("home")
    for path in hub.repo("space", SPACE).commit("main").tree:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(hub.content("space", SPACE, path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = environment(hub, home, token=None) | {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(home)}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=variables)
    for _ in range(240):
        try:
            httpx.get(f"http://127.0.0.1:{port}", timeout=30)
            break
        except httpx.HTTPError:
            assert process.poll() is None, "the Space ended"
            time.sleep(0.5)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


def test_the_space_shows_the_pushed_model(hub, space, images, answers):
    client = Client(space, verbose=False)
    for path, expected in zip(images[:3], answers, strict=False):
        answer = client.predict(handle_file(path), api_name="/classify")
        assert [list(cell["probabilities"].values()) for cell in answer["cells"]] == [
            pytest.approx(cell, abs=1e-5) for cell in expected
        ]
    assert "eosinophil, PBC" in httpx.get(f"{space}/config").text
    fetched = {path for method, path, status in hub.requests if "/resolve/" in path}
    assert any(MODEL in path for path in fetched)


def test_the_space_repository_holds_what_it_needs_and_no_more(hub, published):
    tree = set(hub.repo("space", SPACE).commit("main").tree)
    package = {path for path in (ROOT / "space").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert tree == {
        *(".gitattributes", "README.md", "app.py", "requirements.txt"),
        *(
            path.relative_to(ROOT).as_posix()
            for path in [*package, *(ROOT / "examples").glob("*.jpg"), ROOT / "examples" / "README.md"]
        ),
    }


def test_the_card_of_the_space_is_what_the_hub_builds_from(hub, published):
    data = yaml.safe_load(hub.content("space", SPACE, "README.md").decode().split("---")[1])
    assert data["sdk"] == "gradio"
    assert data["app_file"] == "app.py"
    assert data["sdk_version"] == importlib.metadata.version("gradio")
    assert data["models"] == data["preload_from_hub"] == [MODEL]
    assert data["datasets"] == [DATASET]
    assert isinstance(data["python_version"], str)
    assert tuple(map(int, data["python_version"].split("."))) >= (3, 11)
    needed = hub.content("space", SPACE, "requirements.txt").decode()
    for package in ("torch", "transformers"):
        assert re.search(rf"^{package}>=", needed, re.MULTILINE)
    assert "gradio" not in needed  # the Hub installs sdk_version
