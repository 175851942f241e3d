"""The columns of built data sets: values that are unknown stay unknown."""

import datasets

from hub.data.columns import ATTRIBUTES, OPTIONAL, STAGES, TYPES, class_counts, counts_rows, features, to_datasets
from hub.data.load import load, save
from tests.raw_folders import jpeg


def test_unknown_values_are_null_in_saved_and_published_files(tmp_path):
    image = {"bytes": jpeg(), "path": "a.jpg"}
    rows = [
        {"image": image, "label": "ig", "file_name": "a", "stage": "myelocyte", "box": [1, 2, 3, 4.5]},
        {"image": image, "label": "basophil", "file_name": "b", "lab": "x", "cell_size": "small"},
    ]
    built = to_datasets({"train": rows}, features(TYPES, *OPTIONAL))
    save(built, tmp_path / "out")
    built["train"].to_parquet(tmp_path / "a.parquet")
    published = datasets.load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), cache_dir=str(tmp_path / "c"))
    for loaded in (load(tmp_path / "out"), published):
        part = loaded["train"]
        assert part.features == features(TYPES, *OPTIONAL)
        first, second = part.remove_columns(["image", "label", "file_name"])
        assert first == dict.fromkeys(OPTIONAL) | {"stage": STAGES.index("myelocyte"), "box": [1, 2, 3, 4.5]}
        assert second == dict.fromkeys(OPTIONAL) | {"lab": "x", "cell_size": ATTRIBUTES["cell_size"].index("small")}
        assert class_counts(part, "stage") == dict.fromkeys(STAGES, 0) | {"myelocyte": 1}
        assert counts_rows(loaded, "stage")[-1] == ["total", "1"]
