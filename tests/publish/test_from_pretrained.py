"""`from_pretrained` and `push_to_hub` of a model, by real clients against a server on loopback."""

import json
import os
import subprocess
import sys

import pytest
from hub_server import TOKEN, USER, HubServer

from hub.data.synthetic import draw_field
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor

MODEL = f"{USER}/cells"

PUSH = """
import sys
from huggingface_hub import create_branch
from transformers import AutoModel, AutoModelForImageClassification

folder, name = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
model.push_to_hub(name)
create_branch(name, branch="wide")
model.image_processor.window_size = 5.0
model.push_to_hub(name, revision="wide")
backbone = AutoModel.from_pretrained(folder, trust_remote_code=True)
backbone.save_pretrained("copy", push_to_hub=True, repo_id=name + "-backbone")
"""

LOAD = """
import json, sys
from transformers import AutoModelForImageClassification

name, image, cache, options = sys.argv[1:]
options = json.loads(options) | {"cache_dir": cache, "trust_remote_code": True}
model = AutoModelForImageClassification.from_pretrained(name, **options)
print(json.dumps([model.image_processor.window_size, model.analyze(image).cells[0].crop_box]))
"""


@pytest.fixture
def run(tmp_path):
    """Run a script that knows a Hub and not this repository, and return what it printed."""

    def run(hub, script, *arguments, home="home", token=TOKEN):
        mine = {"PYTHONPATH", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_MODULES_CACHE"}
        environment = {name: value for name, value in os.environ.items() if name not in mine}
        environment |= hub.environment(token) | {"HF_HOME": str(tmp_path / home)}
        result = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def test_the_image_processor_comes_from_where_the_weights_are(run, tmp_path):
    """By revision, token and cache, and from the cache alone when the Hub is gone."""
    config = WBCConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], image_size=48)
    model = WBCForImageClassification(config)
    model.image_processor = WBCImageProcessor(size=48, window_size=3.0)
    model.save_pretrained(tmp_path / "model")
    draw_field("neutrophil", 3).save(tmp_path / "field.png")
    with HubServer(tmp_path / "hub") as hub:
        run(hub, PUSH, tmp_path / "model", MODEL)
        saved = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
        for name in (MODEL, f"{MODEL}-backbone"):
            assert json.loads(hub.content("model", name, "preprocessor_config.json")) == saved
        hub.repo("model", MODEL).private = True

        def load(**options):
            options |= {"revision": "wide"}
            arguments = (MODEL, "field.png", "cache", json.dumps(options))
            return json.loads(run(hub, LOAD, *arguments, home="elsewhere", token=None))

        model.image_processor.window_size = 5.0
        (cell,) = model.analyze(tmp_path / "field.png").cells
        assert load(token=TOKEN) == [5.0, pytest.approx(cell.crop_box)]
    assert load(local_files_only=True) == [5.0, pytest.approx(cell.crop_box)]
