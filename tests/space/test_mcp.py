"""The API as assistants call it, through the client of the Model Context Protocol."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


def as_data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_assistants_get_json_of_one_image_and_of_many(url, known, folder, tmp_path):
    path, expected = known
    with path.open("rb") as file:
        (uploaded,) = httpx.post(f"{url}/gradio_api/upload", files={"files": file}, timeout=60).json()
    calls = [
        ("classify", {"image": as_data(path)}),
        ("classify_batch", {"files": [as_data(path), as_data(folder / "six.png")]}),
        ("classify_batch", {"files": [f"{url}/gradio_api/file={uploaded}"]}),
        ("classify", {"image": f"{url}/gradio_api/file={ROOT / 'hub' / 'checkpoint' / 'reliability.png'}"}),
        ("classify", {"image": str(ROOT / "hub" / "checkpoint" / "reliability.png")}),
    ]
    client = [sys.executable, str(Path(__file__).with_name("mcp_client.py")), f"{url}/gradio_api/mcp/"]
    process = subprocess.run(client, input=json.dumps(calls), capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    said = json.loads(process.stdout)

    # What an assistant reads before it calls.
    assert said["tools"].keys() == {"classify", "classify_batch"}
    for name, parameter in (("classify", "image"), ("classify_batch", "files")):
        description, schema = said["tools"][name]
        assert description.startswith("Classify the white blood cells")
        assert "JPEG" in schema["properties"][parameter]["description"]
        assert "$ref" not in json.dumps(schema)

    one, two, own, foreign, local = said["answers"]
    for failed, texts, heard in (one, two, own):
        assert (failed, len(texts)) == (False, 1)
        assert heard > 0
    cell = json.loads(one[1][0])["cells"][0]
    assert cell["box"] == pytest.approx(expected["cells"][0]["box"])
    assert cell["probabilities"] == pytest.approx(expected["cells"][0]["probabilities"], abs=1e-4)
    assert [len(answer["cells"]) for answer in json.loads(two[1][0])] == [len(expected["cells"]), 6]
    assert [answer["label"] for answer in json.loads(own[1][0])] == [expected["label"]]
    # Files of the server that nobody uploaded.
    assert foreign[0]
    assert local[0]
