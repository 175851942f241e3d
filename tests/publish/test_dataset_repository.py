"""The dataset's repository on the Hub: its configurations, its card, and its use by others."""

import hashlib

import yaml
from datasets import Image

from hub.data.bccd import build_bccd
from hub.data.load import load
from hub.data.pbc import build_pbc
from hub.publish.dataset import configurations
from tests.publish.clients import DATASET, command, holds, stranger

LOAD_DATASET = """
import hashlib, json
from datasets import Image, load_dataset

def digest(rows):
    columns = [name for name in rows[0] if name != "image"]
    return [[hashlib.sha256(row["image"]["bytes"]).hexdigest(), *(row[name] for name in columns)] for row in rows]

loaded = {{}}
for config, split in (("bccd", "test"), ("pbc", "train"), ("blood8", "test")):
    whole = load_dataset("{name}", config, split=split).cast_column("image", Image(decode=False))
    stream = load_dataset("{name}", config, split=split, streaming=True).cast_column("image", Image(decode=False))
    rows = digest(list(whole))
    loaded[config] = dict(names=whole.features["label"].names, rows=rows, same=rows == digest(list(stream)))
default = load_dataset("{name}")
loaded["splits"] = {{name: rows.num_rows for name, rows in default.items()}}
loaded["size"] = default["train"][0]["image"].size
print(json.dumps(loaded))
"""


def test_a_stranger_loads_the_dataset_whole_and_as_a_stream(hub, published, raw_images, tmp_path):
    loaded = stranger(hub, tmp_path, LOAD_DATASET.format(name=DATASET))
    # Built alone, by themselves.
    expected = {"bccd": build_bccd(raw_images / "bccd")[0]["test"], "pbc": build_pbc(raw_images / "pbc")["train"]}
    for config, rows in expected.items():
        assert loaded[config]["names"] == rows.features["label"].names
        assert [row[1:3] for row in loaded[config]["rows"]] == [
            [row["label"], row["file_name"]] for row in rows.remove_columns("image")
        ]
    root = raw_images / "bccd"
    for config, split in (("bccd", "test"), ("pbc", "train"), ("blood8", "test")):
        assert loaded[config]["same"], (config, split)
        assert len(loaded[config]["rows"]) > 0, (config, split)
    # The publisher's bytes.
    first = loaded["bccd"]["rows"][0]
    assert first[0] == hashlib.sha256((root / first[2]).read_bytes()).hexdigest()
    built = load(published)
    assert loaded["splits"] == {split: rows.num_rows for split, rows in built.items()}


def test_configurations_of_the_union_are_the_data_sets_built_alone(raw_images, published):
    parts = configurations(load(published))
    for name, alone in {"bccd": build_bccd(raw_images / "bccd")[0], "pbc": build_pbc(raw_images / "pbc")}.items():
        assert parts[name].keys() == alone.keys()
        for split, rows in alone.items():
            assert parts[name][split].features == rows.features
            encoded = [part.cast_column("image", Image(decode=False)) for part in (parts[name][split], rows)]
            assert encoded[0].to_list() == encoded[1].to_list()


def test_the_dataset_card_lists_licences_and_splits_and_no_path(hub, published, raw_images):
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
    assert str(raw_images) not in text


def test_staging_gives_the_pushed_bytes(hub, published, tmp_path):
    output = tmp_path / "out"
    command(hub, tmp_path, "dataset", "stage", "--repo-id", DATASET, "--dataset", published, "--output", output)
    assert holds(hub, output, repo_id=DATASET, kind="dataset")
