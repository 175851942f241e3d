"""Training that starts from the Hub and goes back to it."""

import subprocess
import sys

from huggingface_hub import ModelCard

from tests.publish.clients import DATASET, MODEL, ROOT, environment, stranger
from tests.publish.hub_server import USER, Fault


def test_training_starts_from_the_hub_and_goes_back_to_it(hub, published, tmp_path):
    """Also after an interruption: a first run whose push the Hub refuses, a second one that goes on."""
    repo_id, output = f"{USER}/fine-tuned", tmp_path / "output"
    arguments = [
        *("-m", "accelerate.commands.launch", str(ROOT / "train.py"), "--dataset_name", DATASET),
        *("--model_name_or_path", MODEL, "--image_size", "64", "--max_steps", "2", "--save_strategy", "steps"),
        *("--save_steps", "1", "--per_device_train_batch_size", "8", "--learning_rate", "0.001"),
        *("--find_cell", "False", "--eval_strategy", "no"),
        *("--disable_tqdm", "True", "--output_dir", str(output), "--report_to", "none"),
        *("--push_to_hub", "--hub_model_id", repo_id),
    ]

    def launch(*more):
        return subprocess.run(
            [sys.executable, *arguments, *more],
            cwd=tmp_path,
            env=environment(hub, tmp_path / "home"),
            capture_output=True,
            text=True,
        )

    told = launch("--hub_model_id", "somebody-else/fine-tuned")
    assert told.returncode == 1
    assert "cannot be had" in told.stderr
    assert "--hub_model_id NAME/NAME" in told.stderr
    assert not list(output.glob("checkpoint-*"))  # before any work

    hub.faults.append(Fault("POST", rf"{repo_id}/commit/", times=10, status=503))
    told = launch()
    assert told.returncode == 1
    assert "the push broke off" in told.stderr, told.stderr[-3000:]
    assert "--resume_from_checkpoint" in told.stderr
    assert len(hub.repo("model", repo_id).history()) == 1
    hub.faults.clear()
    told = launch("--resume_from_checkpoint")
    assert told.returncode == 0, told.stderr
    tree = hub.repo("model", repo_id).commit("main").tree
    assert {"README.md", "model.safetensors", "config.json", "modeling_wbc.py", "test_results.json"} <= tree.keys()
    assert not [path for path in tree if path.endswith((".bin", ".pt", ".pth", ".pkl"))]
    card = ModelCard(hub.content("model", repo_id, "README.md").decode())
    assert f'model="{repo_id}"' in card.text
    assert card.data.base_model == MODEL
    assert card.data.datasets == [DATASET]
    name = stranger(
        hub,
        tmp_path / "stranger",
        "import json\nfrom transformers import AutoModelForImageClassification\n"
        f'model = AutoModelForImageClassification.from_pretrained("{repo_id}", trust_remote_code=True)\n'
        "print(json.dumps([type(model).__name__, model.config.image_size]))",
    )
    assert name == ["WBCForImageClassification", 64]
