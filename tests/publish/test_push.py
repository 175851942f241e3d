"""Publishing to the Hub and loading from it: real clients, in processes of their own, against a server on loopback.

WBC_BCCD_DIR and WBC_PBC_DIR, the folders of the published images, put real cells in place of the drawn ones.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from gradio_client import Client, handle_file
from hub_server import TOKEN, USER, Fault, HubServer
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image
from safetensors.torch import load_file, save_file

from hub.__main__ import main
from hub.data.bccd import BCCD_CLASSES, BCCD_SPLITS, build_bccd
from hub.data.load import load
from hub.data.pbc import PBC_CLASSES, build_pbc
from hub.data.synthetic import draw_field
from hub.publish.dataset import configurations
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "hub" / "checkpoint"
BCCD, PBC = (Path(os.environ[name]) if name in os.environ else None for name in ("WBC_BCCD_DIR", "WBC_PBC_DIR"))
MODEL, DATASET, SPACE = f"{USER}/wbc-ibn-resnet34", f"{USER}/bccd-wbc", f"{USER}/wbc"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture
def fresh(tmp_path):
    """A Hub of a test's own, on which things go wrong."""
    with HubServer(tmp_path / "hub") as server:
        yield server


def environment(hub, home, token=TOKEN):
    """That of a process which knows this Hub, a cache of its own, and not this repository."""
    mine = {"PYTHONPATH", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_MODULES_CACHE"}
    kept = {name: value for name, value in os.environ.items() if name not in mine}
    return kept | hub.environment(token) | {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def command(hub, home, *arguments, token=TOKEN, status=0):
    """Run `python -m hub` and return what it printed."""
    told = subprocess.run(
        [sys.executable, "-m", "hub", *map(str, arguments)],
        cwd=ROOT,
        env=environment(hub, home, token),
        capture_output=True,
        text=True,
    )
    assert told.returncode == status, told.stdout + told.stderr
    assert TOKEN not in told.stdout + told.stderr
    return told.stdout + told.stderr


def stranger(hub, home, script, token=None, **variables):
    """Run a script in a folder without this repository, and return the JSON that it prints last."""
    home.mkdir(exist_ok=True, parents=True)
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=home,
        env=environment(hub, home, token) | variables,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout.splitlines()[-1])


# --- From the working tree to a stranger ---


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Ten files of each class and split of BCCD, and of each class of PBC: real ones where there are any."""
    root = tmp_path_factory.mktemp("raw")

    def fill(folder, source, label, seed):
        folder.mkdir(parents=True)
        if source is not None:
            for path in sorted(source.iterdir())[:10]:
                shutil.copy(path, folder)
        else:
            drawn = label if label in BCCD_CLASSES else BCCD_CLASSES[seed % 4]
            for index in range(10):
                draw_field(drawn, 100 * seed + index).save(folder / f"{label}_{index}.jpg")

    for number, split in enumerate(BCCD_SPLITS.values()):
        for label in BCCD_CLASSES:
            source = BCCD and BCCD / "images" / split / label.upper()
            fill(root / "bccd" / split / label.upper(), source, label, number)
    for number, label in enumerate(PBC_CLASSES):
        fill(root / "pbc" / label, PBC and PBC / label, label, 10 + number)
    return root


@pytest.fixture(scope="module")
def published(hub, raw, tmp_path_factory):
    """Model, dataset and Space, pushed by their three commands; the built dataset's folder."""
    home, built = tmp_path_factory.mktemp("publisher"), raw / "blood8"
    command(hub, home, "dataset", "build", "blood8", "--bccd", raw / "bccd", "--pbc", raw / "pbc", "--output", built)
    command(hub, home, "model", "push", "--repo-id", MODEL)
    command(hub, home, "dataset", "push", "--repo-id", DATASET, "--dataset", built)
    command(hub, home, "space", "push", "--repo-id", SPACE)
    return built


@pytest.fixture(scope="module")
def images():
    """Some images to classify, by path."""
    if BCCD and PBC:
        paths = sorted((BCCD / "Original_Images").iterdir())[:40:5]
        return [
            str(path) for path in [*paths, *(next(iter(sorted((PBC / label).iterdir()))) for label in PBC_CLASSES)]
        ]
    return [str(path) for path in sorted((ROOT / "examples").glob("*.jpg"))]


@pytest.fixture(scope="module")
def answers(images):
    """What the local checkpoint says of them: probabilities of each cell."""
    model = WBCForImageClassification.from_pretrained(CHECKPOINT)
    return [[list(cell.probabilities.values()) for cell in field.cells] for field in model.analyze(images)]


def test_each_push_is_one_commit(hub, published):
    for kind, repo_id in (("model", MODEL), ("dataset", DATASET), ("space", SPACE)):
        newest, first = hub.repo(kind, repo_id).history()
        assert newest.title == f"Publish the {kind}"
        assert first.title == "initial commit"
        assert not hub.repo(kind, repo_id).private


def test_the_model_repository_holds_what_it_needs_and_no_more(hub, published):
    tree = set(hub.repo("model", MODEL).commit("main").tree)
    assert tree == {
        *(".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"),
        *(path.name for path in CHECKPOINT.glob("*.py")),
        *("results.json", "confusion_matrix_bccd.png", "confusion_matrix_pbc.png", "reliability.png"),
        *(f"examples/{path.name}" for path in (ROOT / "examples").glob("*.jpg")),
        "onnx/model.onnx",
    }
    assert hub.content("model", MODEL, "model.safetensors") == (CHECKPOINT / "model.safetensors").read_bytes()
    # No path of the machine that published it.
    assert str(ROOT).encode() not in hub.content("model", MODEL, "onnx/model.onnx")


def test_the_model_card_tells_its_id_and_the_measured_figures(hub, published):
    card = ModelCard(hub.content("model", MODEL, "README.md").decode())
    assert f'from_pretrained("{MODEL}", trust_remote_code=True)' in card.text
    assert card.data.datasets == [DATASET]
    assert card.data.pipeline_tag == "image-classification"
    assert {example["src"].rpartition("main/")[2] for example in card.data.widget} <= set(
        hub.repo("model", MODEL).commit("main").tree
    )
    parts = json.loads((CHECKPOINT / "results.json").read_text())["splits"]["test"]["subsets"]
    measured = {
        (result.dataset_config, result.metric_type): result.metric_value
        for result in model_index_to_eval_results(card.data.to_dict()["model-index"])[1]
    }
    assert measured["bccd", "accuracy"] == parts["bccd_4_classes"]["accuracy"]
    assert measured["pbc", "f1"] == parts["pbc"]["macro_f1"]
    for word in ("71 photographs", "Research use only", "ma2020white", "acevedo2020dataset", "shenggan2017bccd"):
        assert word in card.text


def test_onnx_gives_the_logits_of_pytorch(hub, published, images, tmp_path):
    (tmp_path / "model.onnx").write_bytes(hub.content("model", MODEL, "onnx/model.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    model = WBCForImageClassification.from_pretrained(CHECKPOINT).eval()
    processor = WBCImageProcessor.from_pretrained(CHECKPOINT)
    pixel_values = processor([Image.open(path) for path in images], return_tensors="pt")["pixel_values"]
    for part in (pixel_values, pixel_values[:1]):  # any number of images
        found = dict(
            zip(
                (output.name for output in session.get_outputs()),
                session.run(None, {"pixel_values": part.numpy()}),
                strict=True,
            )
        )
        with torch.no_grad():
            expected = model(part)
        for name in ("logits", "distance", "novelty", "embeddings"):
            np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-4, rtol=0)


LOAD_MODEL = """
import json, sys
import numpy as np
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

name, images, options = "{name}", {images}, dict(trust_remote_code=True, **{options})
config = AutoConfig.from_pretrained(name, **options)
processor = AutoImageProcessor.from_pretrained(name, **options)
trunk = AutoModel.from_pretrained(name, **options)
model = AutoModelForImageClassification.from_pretrained(name, **options)
fields = model.analyze(images, processor)
first = pipeline("image-classification", model=name, **options)(images[0], top_k=1)[0]
print(json.dumps(dict(
    type=config.model_type, trunk=type(trunk).__name__, dtype=str(model.dtype), first=first,
    answers=[[list(cell.probabilities.values()) for cell in field.cells] for field in fields],
    foreign=[name for name in sys.modules if name.split(".")[0] in ("modeling_wbc", "hub")],
)))
"""


def test_a_stranger_loads_the_model_and_gets_the_same_answers(hub, published, images, answers, tmp_path):
    def told(**variables):
        script = LOAD_MODEL.format(name=MODEL, images=images, options=variables.pop("options", {}))
        return stranger(hub, tmp_path, script, **variables)

    newest = hub.repo("model", MODEL).commit("main").id
    online = told()
    assert online["foreign"] == []
    assert (online["type"], online["trunk"], online["dtype"]) == ("wbc", "WBCModel", "torch.float32")
    for found, expected in zip(online["answers"], answers, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert online["first"]["score"] == pytest.approx(max(answers[0][0]), abs=1e-5)
    assert told(options={"revision": newest})["answers"] == online["answers"]
    asked = len(hub.requests)
    assert told(HF_HUB_OFFLINE="1")["answers"] == online["answers"]
    assert len(hub.requests) == asked  # from the cache alone


LOAD_DATASET = """
import hashlib, json
from datasets import Image, load_dataset

def digest(rows):
    columns = [name for name in rows[0] if name != "image"]
    return [[hashlib.sha256(row["image"]["bytes"]).hexdigest(), *(row[name] for name in columns)] for row in rows]

told = {{}}
for config, split in (("bccd", "test"), ("pbc", "train"), ("blood8", "test")):
    whole = load_dataset("{name}", config, split=split).cast_column("image", Image(decode=False))
    stream = load_dataset("{name}", config, split=split, streaming=True).cast_column("image", Image(decode=False))
    rows = digest(list(whole))
    told[config] = dict(names=whole.features["label"].names, rows=rows, same=rows == digest(list(stream)))
default = load_dataset("{name}")
told["splits"] = {{name: rows.num_rows for name, rows in default.items()}}
told["size"] = default["train"][0]["image"].size
print(json.dumps(told))
"""


def test_a_stranger_loads_the_dataset_whole_and_as_a_stream(hub, published, raw, tmp_path):
    told = stranger(hub, tmp_path, LOAD_DATASET.format(name=DATASET))
    # Built alone, by themselves.
    expected = {"bccd": build_bccd(raw / "bccd")[0]["test"], "pbc": build_pbc(raw / "pbc")["train"]}
    for config, rows in expected.items():
        assert told[config]["names"] == rows.features["label"].names
        assert [row[1:3] for row in told[config]["rows"]] == [
            [row["label"], row["file_name"]] for row in rows.remove_columns("image")
        ]
    root = raw / "bccd"
    for config, split in (("bccd", "test"), ("pbc", "train"), ("blood8", "test")):
        assert told[config]["same"] and len(told[config]["rows"]) > 0, (config, split)
    # The publisher's bytes.
    first = told["bccd"]["rows"][0]
    assert first[0] == hashlib.sha256((root / first[2]).read_bytes()).hexdigest()
    built = load(published)
    assert told["splits"] == {split: rows.num_rows for split, rows in built.items()}


def test_configurations_of_the_union_are_the_data_sets_built_alone(raw, published):
    parts = configurations(load(published))
    for name, alone in {"bccd": build_bccd(raw / "bccd")[0], "pbc": build_pbc(raw / "pbc")}.items():
        assert parts[name].keys() == alone.keys()
        for split, rows in alone.items():
            assert parts[name][split].features == rows.features
            encoded = [part.cast_column("image", Image(decode=False)) for part in (parts[name][split], rows)]
            assert encoded[0].to_list() == encoded[1].to_list()


def test_the_dataset_card_tells_licences_and_splits_and_no_path(hub, published, raw):
    text = hub.content("dataset", DATASET, "README.md").decode()
    data = yaml.safe_load(text.split("---")[1])
    assert data["license"] == ["mit", "cc-by-4.0"]
    assert {info["config_name"] for info in data["dataset_info"]} == {"bccd", "pbc", "blood8"}
    assert [config["config_name"] for config in data["configs"] if config.get("default")] == ["blood8"]
    sizes = {info["config_name"]: info["download_size"] for info in data["dataset_info"]}
    tree = hub.repo("dataset", DATASET).commit("main").tree
    for config, size in sizes.items():
        assert size == sum(blob.size for path, blob in tree.items() if path.startswith(f"{config}/"))
    for word in ("Acevedo", "How TRAIN and TEST were made", "it measures memory", f'load_dataset("{DATASET}", "bccd"'):
        assert word in text
    assert str(raw) not in text


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
    page = httpx.get(f"{space}/config").text
    assert f"Examples of {DATASET}" in page
    fetched = {path for method, path, status in hub.requests if "/resolve/" in path}
    assert any(MODEL in path for path in fetched)
    assert any(DATASET in path for path in fetched)


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
    for package in ("torch", "transformers", "datasets"):
        assert re.search(rf"^{package}>=", needed, re.MULTILINE)
    assert "gradio" not in needed  # the Hub installs sdk_version


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
    assert "could not be created or reached" in told.stderr
    assert "--hub_model_id NAME/NAME" in told.stderr
    assert not list(output.glob("checkpoint-*"))  # before any work

    hub.faults.append(Fault("POST", rf"{repo_id}/commit/", times=10, status=503))
    told = launch()
    assert told.returncode == 1
    assert "the push broke off" in told.stderr and "--resume_from_checkpoint" in told.stderr, told.stderr[-3000:]
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


# --- What a push does and does not ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A staged repository in small: a card, two files for LFS, one of them of several parts, and a text."""
    folder = tmp_path_factory.mktemp("staged")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Cells\n")
    rng = np.random.default_rng(0)
    (folder / "large.bin").write_bytes(rng.bytes(20 * 2**20))
    (folder / "part").mkdir()
    (folder / "part" / "small.bin").write_bytes(rng.bytes(2**18))
    (folder / "notes.txt").write_text("about cells\n")
    return folder


REPO = f"{USER}/cells"
PUSH = """
import sys
from pathlib import Path
try:
    commit = push(Path({folder!r}), {repo_id!r}, {kind!r}, "Publish", **{options!r})
except UserError as error:
    sys.exit(f"error: {{error}}")
print("pushed" if commit else "unchanged")
"""


def start_push(hub, home, folder, repo_id=REPO, kind="model", **options):
    script = PUSH.format(folder=str(folder), repo_id=repo_id, kind=kind, options=options)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment(hub, home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pushed(*arguments, **options):
    """What a push printed last, and its errors."""
    process = start_push(*arguments, **options)
    out, errors = process.communicate(timeout=240)
    assert TOKEN not in out + errors
    return out.strip().splitlines()[-1] if process.returncode == 0 else "failed", errors


def holds(hub, folder, revision="main", repo_id=REPO, kind="model"):
    """Whether the repository holds what the folder holds."""
    tree = hub.repo(kind, repo_id).commit(revision).tree
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return tree.keys() - {".gitattributes"} == files.keys() and all(
        hub.content(kind, repo_id, name, revision) == path.read_bytes() for name, path in files.items()
    )


def uploads(hub):
    return [path for method, path, status in hub.requests if method == "PUT" and status == 200]


def test_a_second_push_makes_a_commit_of_what_changed_only(fresh, folder, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine)
    assert pushed(fresh, tmp_path, mine)[0] == "pushed"
    assert holds(fresh, mine)
    assert pushed(fresh, tmp_path, mine)[0] == "unchanged"
    sent = len(uploads(fresh))
    (mine / "notes.txt").write_text("more about cells\n")
    (mine / "part" / "small.bin").unlink()
    (mine / "part").rmdir()
    assert pushed(fresh, tmp_path, mine)[0] == "pushed"
    assert holds(fresh, mine)
    assert len(fresh.repo("model", REPO).history()) == 3
    assert len(uploads(fresh)) == sent


def test_pushes_to_a_branch_and_as_a_pull_request(fresh, folder, tmp_path):
    assert pushed(fresh, tmp_path, folder, private=True)[0] == "pushed"
    repo = fresh.repo("model", REPO)
    assert repo.private
    head, mine = repo.commit("main"), tmp_path / "mine"
    shutil.copytree(folder, mine)
    (mine / "notes.txt").write_text("another view\n")
    assert pushed(fresh, tmp_path, mine, revision="v2")[0] == "pushed"
    assert holds(fresh, mine, "v2")
    assert repo.commit("main") == head
    assert pushed(fresh, tmp_path, mine, create_pr=True)[0] == "pushed"
    assert holds(fresh, mine, "refs/pr/1")
    assert repo.commit("main") == head


def test_does_not_call_private_what_is_public(fresh, folder, tmp_path):
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    said, errors = pushed(fresh, tmp_path, folder, private=True)
    assert said == "failed"
    assert "is public" in errors


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/preupload/", times=2),
        Fault("POST", "/objects/batch", status=429, headers={"Retry-After": "1"}),
        Fault("PUT", "/lfs/.*/part/2", kind="drop", after=2**20),
        Fault("PUT", r"/lfs/\w+/\d+$", kind="drop", after=2**16),
        Fault("PUT", "/lfs/", status=500),
        Fault("POST", "/lfs/.*/complete", status=503),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status} {fault.path}",
)
def test_what_passes_costs_no_second_try(fresh, folder, tmp_path, fault):
    fresh.faults.append(fault)
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    assert fault.times == 0
    assert holds(fresh, folder)
    assert len(fresh.repo("model", REPO).history()) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/repos/create", status=500),
        Fault("POST", "/commit/main", status=500),
        Fault("POST", "/commit/main", status=429, headers={"Retry-After": "1"}),
        Fault("POST", "/commit/main", kind="drop", after=100),
        Fault("PUT", "/lfs/.*/part/2", status=403),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status} {fault.path}",
)
def test_a_push_that_breaks_off_commits_nothing_and_the_next_one_all(fresh, folder, tmp_path, fault):
    fresh.faults.append(fault)
    said, errors = pushed(fresh, tmp_path, folder)
    assert said == "failed"
    assert fault.times == 0
    assert f"error: the push to {REPO} broke off: " in errors
    assert "Traceback" not in errors
    assert ("model", REPO) not in fresh.repos or len(fresh.repo("model", REPO).history()) == 1
    sent = uploads(fresh)
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    assert holds(fresh, folder)
    assert len(fresh.repo("model", REPO).history()) == 2
    if "/commit/" in fault.path:
        assert uploads(fresh) == sent  # large files are there already


def test_a_commit_whose_answer_is_lost_is_there_once(fresh, folder, tmp_path):
    fresh.faults.append(Fault("POST", "/commit/main", kind="lost"))
    assert pushed(fresh, tmp_path, folder)[0] == "failed"
    assert holds(fresh, folder)
    assert len(fresh.repo("model", REPO).history()) == 2
    assert pushed(fresh, tmp_path, folder)[0] == "unchanged"


def test_a_branch_of_a_push_that_broke_off_is_gone(fresh, folder, tmp_path):
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("v2\n")
    fresh.faults.append(Fault("POST", "/commit/v2", status=500))
    assert pushed(fresh, tmp_path, other, revision="v2")[0] == "failed"
    assert set(fresh.repo("model", REPO).refs) == {"refs/heads/main"}


def test_does_not_write_over_what_somebody_else_pushes_meanwhile(fresh, folder, tmp_path):
    def meanwhile():
        repo = fresh.repo("model", REPO)
        head = repo.commit("main")
        tree = head.tree | {"theirs.txt": fresh._store(b"theirs\n")}
        fresh._add_commit(repo, "refs/heads/main", head.id, "Theirs", "", tree)

    fresh.faults.append(Fault("POST", "/commit/main", kind="meanwhile", action=meanwhile))
    said, errors = pushed(fresh, tmp_path, folder)
    assert said == "failed"
    assert "A commit has happened since" in errors
    assert fresh.repo("model", REPO).commit("main").title == "Theirs"


def test_a_killed_push_leaves_nothing_and_can_be_repeated(fresh, folder, tmp_path):
    fresh.faults.append(Fault("PUT", "/lfs/.*/part/2", kind="slow", seconds=1))
    process = start_push(fresh, tmp_path, folder)
    while not any("/part/1" in path for path in uploads(fresh)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(fresh.repo("model", REPO).history()) == 1
    assert pushed(fresh, tmp_path, folder)[0] == "pushed"
    assert holds(fresh, folder)


# --- Errors before anything is sent ---


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run `python -m hub` here, where there is a token and no network, and return the error that it ends with."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def refused(*arguments):
        assert main([*map(str, arguments)]) == 1
        return capsys.readouterr().err

    return refused


@pytest.mark.parametrize("repo_id", ["cells", "a/b/c", "someone/ce lls", "someone/cells--and", "someone/.cells"])
@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_wrong_id_is_refused(refused, kind, repo_id):
    assert f"{repo_id!r} is not the id of a repository" in refused(kind, "push", "--repo-id", repo_id)


def test_without_a_token_the_error_tells_how_to_get_one(fresh, tmp_path):
    told = command(fresh, tmp_path, "space", "push", "--repo-id", SPACE, token=None, status=1)
    assert "https://huggingface.co/settings/tokens" in told
    assert "hf auth login" in told
    assert fresh.requests == []
    told = command(fresh, tmp_path, "space", "push", "--repo-id", SPACE, token="hf_wrong", status=1)
    assert "Invalid credentials" in told
    assert "hf_wrong" not in told
    assert fresh.repos == {}
    told = command(fresh, tmp_path, "space", "push", "--repo-id", "somebody-else/wbc", status=1)
    assert "rights" in told
    assert fresh.repos == {}


def test_a_dry_run_lists_and_touches_nothing(fresh, tmp_path):
    told = command(fresh, tmp_path, "space", "push", "--repo-id", SPACE, "--dry-run", token=None)
    assert re.search(rf"app\.py +{(ROOT / 'app.py').stat().st_size:,}\n", told)
    assert "nothing was" in told
    assert fresh.requests == []


def test_arguments_that_contradict_are_explained(fresh, tmp_path):
    told = command(fresh, tmp_path, "space", "push", "--repo-id", SPACE, "--create-pr", "--revision", "v2", status=2)
    assert "leave out --revision" in told


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the checkpoint to spoil."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def test_a_checkpoint_that_does_not_fit_together_is_not_pushed(refused, checkpoint):
    push = ("model", "push", "--repo-id", MODEL, "--checkpoint", checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    save_file(weights | {"classifier.1.bias": torch.zeros(5)}, checkpoint / "model.safetensors", {"format": "pt"})
    assert "classifier.1.bias has the shape (5,) in the weights, and (8,) by the configuration" in refused(*push)
    (checkpoint / "model.safetensors").write_bytes((CHECKPOINT / "model.safetensors").read_bytes()[:-7])
    assert "model.safetensors is damaged" in refused(*push)
    (checkpoint / "results.json").unlink()
    assert f"{checkpoint} has no results.json" in refused(*push)
    shutil.rmtree(checkpoint)
    assert f"{checkpoint} has no config.json and no" in refused(*push)


def test_a_folder_that_no_build_wrote_is_no_dataset(refused, tmp_path):
    told = refused("dataset", "push", "--repo-id", DATASET, "--dataset", tmp_path)
    assert "build the data set with `python -m hub dataset build`" in told


def test_staging_the_same_twice_gives_the_same_bytes(hub, published, tmp_path):
    """And what is staged is what was pushed."""
    command(
        hub, tmp_path, "dataset", "stage", "--repo-id", DATASET, "--dataset", published, "--output", tmp_path / "out"
    )
    assert holds(hub, tmp_path / "out", repo_id=DATASET, kind="dataset")
    command(hub, tmp_path, "model", "stage", "--repo-id", MODEL, "--output", tmp_path / "model")
    assert holds(hub, tmp_path / "model", repo_id=MODEL)


# --- Downloads that go wrong ---


def tiny(folder, **options):
    torch.manual_seed(0)
    config = WBCConfig(**{"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32} | options)
    WBCForImageClassification(config).save_pretrained(folder)
    return folder


LOAD = """
import json
from transformers import AutoModelForImageClassification
try:
    model = AutoModelForImageClassification.from_pretrained({name!r}, trust_remote_code=True)
    print(json.dumps(float(sum(weight.double().sum() for weight in model.state_dict().values()))))
except OSError as error:
    print(json.dumps(str(error)))
"""


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/cdn/", kind="drop", after=5 * 2**22),  # the client writes 10 MB at a time
        Fault("GET", "/cdn/", kind="slow", seconds=0.002),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_broken_or_slow_download_is_whole_in_the_end(fresh, tmp_path, fault):
    weights = CHECKPOINT / "model.safetensors"
    assert pushed(fresh, tmp_path, CHECKPOINT)[0] == "pushed"
    fresh.faults.append(fault)
    expected = sum(weight.double().sum() for weight in load_file(weights).values()).item()
    assert stranger(fresh, tmp_path / "home", LOAD.format(name=REPO)) == pytest.approx(expected, rel=1e-9)
    assert fault.times == 0
    if fault.kind == "drop":  # and went on where it broke off
        assert ("GET", 206) in {(method, status) for method, path, status in fresh.requests if "/cdn/" in path}


def test_weights_that_are_not_the_models_are_an_error_that_names_the_file(fresh, tmp_path):
    def told(spoil):
        folder = tiny(tmp_path / spoil.__name__)
        spoil(folder, folder / "model.safetensors")
        repo_id = f"{USER}/{spoil.__name__}"
        assert pushed(fresh, tmp_path, folder, repo_id=repo_id)[0] == "pushed"
        return stranger(fresh, tmp_path / "home", LOAD.format(name=repo_id)), f"model.safetensors of {repo_id}"

    def truncated(folder, weights):
        weights.write_bytes(weights.read_bytes()[:-1000])

    def deeper(folder, weights):
        shutil.copy(tiny(folder.with_name("two"), depths=[1, 2]) / "model.safetensors", weights)

    def wider(folder, weights):
        shutil.copy(tiny(folder.with_name("wide"), hidden_sizes=[8, 24]) / "model.safetensors", weights)

    def pickled(folder, weights):
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()

    error, file = told(truncated)
    assert f"{file} is damaged" in error
    for spoil in (deeper, wider):
        error, file = told(spoil)
        assert f"{file} holds a network of another architecture" in error
    error, _ = told(pickled)
    assert "has no model.safetensors" in error
    assert "a pickle could run code" in error
