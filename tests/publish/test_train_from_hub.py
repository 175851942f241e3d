"""Training that starts from the Hub and goes back to it."""

import subprocess
import sys

from huggingface_hub import ModelCard

from hub.data.pbc import PBC_CLASSES
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor
from tests.publish.clients import CHECKPOINT, DATASET, ROOT, environment, pushed, stranger
from tests.publish.hub_server import USER, Fault


def small_classifier(folder):
    """A classifier of PBC's cells, as published but for its size."""
    config = WBCConfig(id2label=dict(enumerate(PBC_CLASSES)), embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    WBCForImageClassification(config).save_pretrained(folder)
    WBCImageProcessor.from_pretrained(CHECKPOINT).save_pretrained(folder)
    return folder


def test_training_starts_from_the_hub_and_goes_back_to_it(hub, published, tmp_path):
    """Also after an interruption: a first run whose push the Hub refuses, a second one that goes on."""
    base, repo_id, output = f"{USER}/small", f"{USER}/fine-tuned", tmp_path / "output"
    assert pushed(hub, tmp_path, small_classifier(tmp_path / "small"), repo_id=base)[0] == "pushed"
    arguments = [
        *(str(ROOT / "train.py"), "--dataset_name", DATASET),
        *("--model_name_or_path", base, "--image_size", "64", "--max_steps", "2", "--save_strategy", "steps"),
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

    run = launch("--hub_model_id", "somebody-else/fine-tuned")
    assert run.returncode == 1
    assert "could not be created or reached" in run.stderr
    assert "--hub_model_id NAME/NAME" in run.stderr
    assert not list(output.glob("checkpoint-*"))  # before any work

    hub.faults.append(Fault("POST", rf"{repo_id}/commit/", times=10, status=503))
    run = launch()
    assert run.returncode == 1
    assert "the push broke off" in run.stderr, run.stderr[-3000:]
    assert "--resume_from_checkpoint" in run.stderr
    assert len(hub.repo("model", repo_id).history()) == 1
    hub.faults.clear()
    run = launch("--resume_from_checkpoint")
    assert run.returncode == 0, run.stderr
    tree = hub.repo("model", repo_id).commit("main").tree
    assert {"README.md", "model.safetensors", "config.json", "modeling_wbc.py", "test_results.json"} <= tree.keys()
    assert not [path for path in tree if path.endswith((".bin", ".pt", ".pth", ".pkl"))]
    card = ModelCard(hub.content("model", repo_id, "README.md").decode())
    assert f'model="{repo_id}"' in card.text
    assert card.data.base_model == base
    assert card.data.datasets == [DATASET]
    name = stranger(
        hub,
        tmp_path / "stranger",
        "import json\nfrom transformers import AutoModelForImageClassification\n"
        f'model = AutoModelForImageClassification.from_pretrained("{repo_id}", trust_remote_code=True)\n'
        "print(json.dumps([type(model).__name__, model.config.image_size]))",
    )
    assert name == ["WBCForImageClassification", 64]
