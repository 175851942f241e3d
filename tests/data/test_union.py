"""The union of several labs."""

import pytest
from datasets import Image

from hub.__main__ import main
from hub.data.bccd import BCCD
from hub.data.chula import CHULA
from hub.data.columns import ATTRIBUTES, OPTIONAL, STAGES, TYPES, features
from hub.data.load import load
from hub.data.pbc import build_pbc
from hub.data.publisher import Publisher, Reading
from hub.data.union import PUBLISHERS, UNITED, build_lab, build_union
from hub.files import UserError
from tests.raw_folders import jpeg, make_chula, make_pbc, make_wbcatt


def test_blood8_is_the_union_of_two_labs(raw, built, tmp_path, capsys):
    make_pbc(tmp_path / "pbc")
    output = tmp_path / "out"
    arguments = ["--bccd", str(raw), "--pbc", str(tmp_path / "pbc"), "--output", str(output)]
    assert main(["dataset", "build", "blood8", *arguments]) == 0
    union = load(output)
    bccd, _ = built
    pbc = build_pbc(tmp_path / "pbc")
    for split, part in union.items():
        assert part.features["label"].names == list(TYPES)
        expected = {
            (f"{name}/{row['file_name']}", TYPES.index(source[split].features["label"].names[row["label"]]), name)
            for name, source in (("bccd", bccd), ("pbc", pbc))
            if split in source
            for row in source[split].remove_columns("image")
        }
        rows = part.remove_columns("image")
        assert {(row["file_name"], row["label"], row["lab"]) for row in rows} == expected
        assert all((row["photograph"] is None) == (row["lab"] == "pbc") for row in rows)
    assert union.keys() == bccd.keys()
    card = (output / "README.md").read_text(encoding="utf-8")
    for words in ("CC BY 4.0", "MIT licence", "| ig |"):
        assert words in card
    printed = capsys.readouterr()
    assert "test: 16 of 16 files show 8 photographs" in printed.out
    assert printed.err.splitlines()[0] == "blood8 is now built by `dataset build union --bccd DIR --pbc DIR`"


def test_a_union_has_all_columns_and_nulls_where_a_lab_has_none(raw, tmp_path):
    make_pbc(tmp_path / "pbc")
    (tmp_path / "pbc" / "ig" / "IG_000.jpg").rename(tmp_path / "pbc" / "ig" / "MMY_7.jpg")
    make_chula(tmp_path / "chula")
    wbcatt = make_wbcatt(tmp_path / "wbcatt", [f"BA_{index:03d}.jpg" for index in range(8)])
    sources = {"bccd": raw, "pbc": tmp_path / "pbc", "chula": tmp_path / "chula"}
    built = build_union(sources, wbcatt=wbcatt)
    assert built.fields is not None
    assert built.found["agreement"][0]["images"] == 4
    assert built.found["near_duplicates"]["images"].keys() == set(UNITED)
    stages = set()
    for split, part in built.dataset.items():
        assert part.features == features(TYPES, *OPTIONAL)
        assert part.num_rows == len(set(part["file_name"][:]))
        for row in part.remove_columns("image"):
            owned = {"lab", *PUBLISHERS[row["lab"]].optional}
            assert {name for name in OPTIONAL if row[name] is not None} <= owned, (split, row)
            assert (row["box"] is not None) == (row["lab"] == "chula")
            attributes = {row[name] is None for name in ATTRIBUTES}
            assert len(attributes) == 1
            stages.add(row["stage"])
    assert stages == {None, STAGES.index("metamyelocyte")}


def test_an_image_in_two_labs_is_on_one_side(tmp_path):
    make_pbc(tmp_path / "pbc")
    make_chula(tmp_path / "chula")
    held = build_pbc(tmp_path / "pbc")["test"].cast_column("image", Image(decode=False))[0]
    trained = CHULA.build(tmp_path / "chula")["train"][0]
    # The same cell under another name, in the training images of another lab.
    (tmp_path / "pbc" / held["file_name"]).write_bytes((tmp_path / "chula" / trained["file_name"]).read_bytes())
    built = build_union({"pbc": tmp_path / "pbc", "chula": tmp_path / "chula"})
    moved = f"chula/{trained['file_name']}"
    assert {"file_name": moved, "before": "train", "after": "test"} in built.found["near_duplicates"]["moved"]
    assert moved in built.dataset["test"]["file_name"][:]
    assert moved not in built.dataset["train"]["file_name"][:]
    assert built.found["near_duplicates"]["across"] >= 1


def test_copies_that_bccd_made_are_no_near_duplicates(raw):
    built = build_lab(BCCD, BCCD.read(raw))
    assert built.found["near_duplicates"]["images"] == {"bccd": 36}
    assert built.found["near_duplicates"]["moved"] == []


def test_a_new_publisher_is_one_entry(tmp_path, monkeypatch):
    def rows(source, seed):
        row = {"image": {"bytes": jpeg(seed), "path": "a.jpg"}, "label": "monocyte", "file_name": "a.jpg"}
        return Reading({"test": [row], source.name: [dict(row, file_name="b.jpg", image=image)]})

    image = {"bytes": jpeg(77), "path": "b.jpg"}
    new = Publisher("new", ("monocyte",), license="mit", rows=rows)
    monkeypatch.setitem(PUBLISHERS, "new", new)
    make_pbc(tmp_path / "pbc")
    union = build_union({"pbc": tmp_path / "pbc", "new": tmp_path / "extra"}, seed=3).dataset
    assert union["test"][-1]["file_name"] == "new/a.jpg"
    assert union["test"][-1]["lab"] == "new"
    assert TYPES[union["test"][-1]["label"]] == "monocyte"
    assert union["extra"].num_rows == 1
    alone = new.build(tmp_path / "extra", seed=3)
    assert alone["test"].features == features(("monocyte",), "lab")
    assert list(alone) == ["test", "extra"]
    with pytest.raises(UserError, match="new takes no wbcatt"):
        new.build(tmp_path / "extra", wbcatt=tmp_path)


def test_a_union_of_no_lab_is_refused():
    with pytest.raises(UserError, match="a union needs at least one lab"):
        build_union({})
