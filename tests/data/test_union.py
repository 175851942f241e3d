"""The union of several labs."""

from hub.__main__ import main
from hub.data.columns import features
from hub.data.load import load
from hub.data.pbc import PBC_CLASSES, build_pbc
from hub.data.publisher import Publisher
from hub.data.union import PUBLISHERS, build_union
from tests.raw_folders import jpeg, make_pbc


def test_blood8_is_the_union(raw, built, tmp_path, capsys):
    make_pbc(tmp_path / "pbc")
    output = tmp_path / "out"
    arguments = ["--bccd", str(raw), "--pbc", str(tmp_path / "pbc"), "--output", str(output)]
    assert main(["dataset", "build", "blood8", *arguments]) == 0
    union = load(output)
    bccd, _ = built
    pbc = build_pbc(tmp_path / "pbc")
    names = ["basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet"]
    for split, part in union.items():
        assert part.features["label"].names == names
        expected = [
            (f"{name}/{row['file_name']}", names.index(source[split].features["label"].names[row["label"]]), name)
            for name, source in (("bccd", bccd), ("pbc", pbc))
            if split in source
            for row in source[split].remove_columns("image")
        ]
        rows = part.remove_columns("image")
        assert [(row["file_name"], row["label"], row["dataset"]) for row in rows] == expected
        assert all((row["photograph"] is None) == (row["dataset"] == "pbc") for row in rows)
    assert union.keys() == bccd.keys()
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in card
    assert "MIT licence" in card
    assert "| ig |" in card
    assert "test: 16 of 16 files show 8 photographs" in capsys.readouterr().out


def test_a_new_publisher_is_one_entry(tmp_path, monkeypatch):
    def rows(source, seed):
        row = {"image": {"bytes": jpeg(seed), "path": "a.jpg"}, "label": "monocyte", "file_name": "a.jpg"}
        return {"test": [row], source.name: [row]}, None

    new = Publisher("new", ("monocyte",), license="mit", rows=rows)
    monkeypatch.setitem(PUBLISHERS, "new", new)
    make_pbc(tmp_path / "pbc")
    union, registration = build_union({"pbc": tmp_path / "pbc", "new": tmp_path / "extra"}, PBC_CLASSES, seed=3)
    assert registration is None
    assert union["test"].features == features(PBC_CLASSES, origin=True)
    assert union["test"][-1]["file_name"] == "new/a.jpg"
    assert union["test"][-1]["dataset"] == "new"
    assert PBC_CLASSES[union["test"][-1]["label"]] == "monocyte"
    assert union["extra"].num_rows == 1
    alone, _ = new.build(tmp_path / "extra", seed=3)
    assert alone["test"].features == features(("monocyte",))
    assert list(alone) == ["test", "extra"]
