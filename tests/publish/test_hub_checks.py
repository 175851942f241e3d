"""What the Hub would refuse or could not show is refused before a push, and by the stand-in for the Hub as well."""

import json
import re
import shutil

import datasets
import pytest
import yaml

from hub.files import UserError
from hub.publish import checks
from hub.publish.checks import check
from hub.publish.space import stage as stage_space
from tests.publish.clients import REPO, pushed
from tests.publish.hub_server import USER
from tests.publish.hub_server.cards import card_errors

RESULT = {
    "task": {"type": "image-classification"},
    "dataset": {"type": f"{USER}/smears", "name": "Smears", "config": "bccd", "split": "test"},
    "metrics": [{"type": "accuracy", "value": 0.9}],
}
MODEL_DATA = {
    "license": "apache-2.0",
    "library_name": "transformers",
    "pipeline_tag": "image-classification",
    "datasets": [f"{USER}/smears"],
    "base_model": "microsoft/resnet-34",
    "tags": ["microscopy"],
    "model-index": [{"name": "cells", "results": [RESULT]}],
    "widget": [{"src": f"https://huggingface.co/{REPO}/resolve/main/cell.jpg", "example_title": "cell"}],
}


def write_card(folder, data, text="# Cells\n"):
    folder.mkdir(exist_ok=True)
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(data)}---\n\n{text}", encoding="utf-8")


def read_data(folder):
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    write_card(folder, MODEL_DATA, "![cell](cell.jpg) [paper](https://doi.org/1) [use](#use)\n```\n[a](b)\n```\n")
    (folder / "cell.jpg").write_bytes(b"\xff\xd8")
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling_wbc.WBCModel"}}))
    (folder / "modeling_wbc.py").write_text("")
    return folder


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """A data set of two configurations, and a Space as it is published."""
    root = tmp_path_factory.mktemp("staged")
    folder, infos, configs = root / "dataset", datasets.info.DatasetInfosDict(), []
    for config in ("bccd", "pbc"):
        rows = datasets.Dataset.from_dict(
            {"label": ["monocyte", "basophil"]},
            features=datasets.Features({"label": datasets.ClassLabel(names=["basophil", "monocyte"])}),
        )
        (folder / config).mkdir(parents=True)
        size = rows.to_parquet(folder / config / "train-00000-of-00001.parquet")
        splits = datasets.SplitDict()
        splits.add(datasets.SplitInfo("train", num_bytes=size, num_examples=2))
        stored = (folder / config / "train-00000-of-00001.parquet").stat().st_size
        infos[config] = datasets.DatasetInfo(
            features=rows.features, splits=splits, download_size=stored, dataset_size=size
        )
        configs.append({"config_name": config, "data_files": [{"split": "train", "path": f"{config}/train-*"}]})
    data = datasets.utils.metadata.DatasetCardData(
        license=["mit", "cc-by-4.0"], task_categories=["image-classification"], size_categories="n<1K"
    )
    infos.to_dataset_card_data(data)
    write_card(folder, data.to_dict() | {"configs": configs})
    (root / "space").mkdir()
    stage_space(root / "space", REPO, f"{USER}/model", f"{USER}/dataset")
    return root


@pytest.fixture
def dataset(staged, tmp_path):
    return shutil.copytree(staged / "dataset", tmp_path / "dataset")


@pytest.fixture
def space(staged, tmp_path):
    return shutil.copytree(staged / "space", tmp_path / "space")


def refusal(folder, kind):
    with pytest.raises(UserError) as error:
        check(folder, kind, REPO)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_right_passes(model, dataset, space):
    for folder in (model, dataset, space):
        check(folder, folder.name, REPO)
        assert card_errors((folder / "README.md").read_text(encoding="utf-8"), folder.name) == []
    # And the loader of the Hub's viewer reads it as its card says.
    for config in ("bccd", "pbc"):
        builder = datasets.load_dataset_builder(str(dataset), config)
        rows = datasets.load_dataset(str(dataset), config, split="train", streaming=True)
        assert builder.info.splits["train"].num_examples == len(list(rows)) == 2
        assert rows.features["label"].names == ["basophil", "monocyte"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": "apache"}, "\"license\" 'apache' is none"),
        ({"pipeline_tag": "cell-classification"}, "pipeline_tag"),
        ({"datasets": ["/data/smears"]}, "names '/data/smears', which is no id"),
        ({"base_model": "ResNet 34 of ImageNet"}, "base_model"),
        ({"tags": ["microscopy", 7]}, "tags"),
        ({"model-index": [{"name": "cells"}]}, "results"),
        ({"model-index": [{"name": "cells", "results": [RESULT | {"dataset": {"type": "a"}}]}]}, "name"),
        ({"model-index": [{"name": "c", "results": [RESULT | {"dataset": {"type": "a b", "name": "A"}}]}]}, "'a b'"),
        ({"model-index": [{"name": "c", "results": [RESULT | {"task": {"type": "cells"}}]}]}, "task 'cells'"),
        (
            {"model-index": [{"name": "c", "results": [RESULT | {"metrics": [{"type": "f1", "value": "90 %"}]}]}]},
            "'90 %', which is no number",
        ),
        (
            {
                "model-index": [
                    {"name": "c", "results": [RESULT | {"metrics": [{"type": "f1", "value": float("nan")}]}]}
                ]
            },
            "nan, which is no number",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_metadata_of_a_model(model, changes, message):
    write_card(model, MODEL_DATA | changes)
    assert message in refusal(model, "model")
    assert card_errors((model / "README.md").read_text(encoding="utf-8"), "model")


def test_files_that_a_model_names_are_there(model):
    (model / "cell.jpg").unlink()
    assert refusal(model, "model").count("README.md shows cell.jpg, which is missing") == 2
    (model / "cell.jpg").touch()
    (model / "modeling_wbc.py").unlink()
    assert "config.json names modeling_wbc.WBCModel, whose file is missing" in refusal(model, "model")
    (model / "README.md").write_text("---\nlicense: [mit\n---\n# Cells")
    assert "README.md: " in refusal(model, "model")
    (model / "README.md").write_text("# Cells")
    assert "README.md has no metadata" in refusal(model, "model")
    (model / "config.json").write_text("{")
    assert "config.json is no JSON" in refusal(model, "model")


def test_a_data_set_is_what_its_card_says(dataset):
    data = read_data(dataset)
    path = dataset / "bccd" / "train-00000-of-00001.parquet"
    shutil.copy(path, dataset / "bccd" / "train-00001-of-00001.parquet")
    error = refusal(dataset, "dataset")
    assert "the split train of the configuration bccd has 4 rows, its metadata say 2" in error
    assert f"has {2 * path.stat().st_size:,} bytes, its metadata say {path.stat().st_size:,}" in error
    shutil.rmtree(dataset / "bccd")
    assert "the split train of the configuration bccd has no files: bccd/train-*" in refusal(dataset, "dataset")
    for changes, message in (
        ({"task_categories": ["cells"]}, "task_categories"),
        ({"size_categories": "few"}, "size_categories"),
        ({"configs": [config | {"default": True} for config in data["configs"]]}, "default"),
        ({"configs": [{"data_files": "*.parquet"}]}, "config_name"),
        ({"configs": data["configs"][1:]}, '"configs" has [\'pbc\'], "dataset_info" has'),
        ({"dataset_info": {"features": [{"name": "label", "dtype": {"class": {}}}]}}, "README.md: "),
    ):
        write_card(dataset, data | changes)
        assert message in refusal(dataset, "dataset"), message


def test_a_group_of_rows_that_the_viewer_cannot_read(dataset, monkeypatch):
    monkeypatch.setattr(checks, "_ROW_GROUP_BYTES", 10)
    assert "bytes: the dataset viewer reads at most 10 at once" in refusal(dataset, "dataset")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sdk": "flask"}, "sdk"),
        ({"sdk_version": 6.3}, "sdk_version"),
        ({"python_version": 3.1}, "python_version"),
        ({"app_file": "main.py"}, "app_file"),
        ({"short_description": "c" * 61}, "60 characters"),
        ({"colorFrom": "teal"}, "colorFrom"),
        ({"suggested_hardware": "t4"}, "suggested_hardware"),
        ({"emoji": "cell"}, "emoji"),
        ({"preload_from_hub": ["a/b config.json main more"]}, "preload_from_hub"),
        ({"models": ["a/b/c"]}, "models"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_metadata_of_a_space(space, changes, message):
    write_card(space, read_data(space) | changes)
    assert message in refusal(space, "space")


def test_files_of_a_space(space):
    needed = space / "requirements.txt"
    needed.write_text(f"{needed.read_text()}gradio>=6.0\n")
    assert "requirements.txt names gradio" in refusal(space, "space")
    (space / "README.md").unlink()
    assert "a Space needs a README.md" in refusal(space, "space")
    with open(space / "large.bin", "wb") as file:
        file.truncate(2 * 10**9)  # no byte of it is written
    assert re.search("a Space has at most 1,000,000,000 bytes, this one has 2,000,", refusal(space, "space"))


def test_nothing_is_sent_of_what_does_not_pass(fresh, model, tmp_path):
    write_card(model, MODEL_DATA | {"license": "apache"})
    said, errors = pushed(fresh, tmp_path, model)
    assert said == "failed"
    assert "the Hub would refuse this model" in errors
    assert fresh.requests == []
