"""LISC: one split, that nothing is trained on.

WBC_LISC_DIR, the folder of the published images, switches on the test at the end.
"""

import os

import pytest

from hub.data.columns import class_counts
from hub.data.lisc import LISC, LISC_CLASSES
from hub.data.union import build_union, check_trainable
from hub.files import UserError
from tests.raw_folders import make_classes


def test_lisc_is_one_split_to_test_on(tmp_path):
    dataset = LISC.build(make_classes(tmp_path / "raw", LISC_CLASSES, 3))
    assert list(dataset) == ["test"]
    assert class_counts(dataset["test"]) == dict.fromkeys(LISC_CLASSES, 3)
    assert dataset["test"][0]["file_name"] == "basophil/basophil_000.jpg"


def test_lisc_is_not_trained_on(tmp_path):
    source = make_classes(tmp_path / "raw", LISC_CLASSES, 1)
    dataset = LISC.build(source)
    check_trainable(dataset)
    dataset["train"] = dataset["test"]
    with pytest.raises(UserError, match="the split train holds images of lisc, which may be validated on only"):
        check_trainable(dataset)
    with pytest.raises(UserError, match="lisc is validated on and never trained on: build it alone"):
        build_union({"lisc": source})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "basophil" / "basophil_000.jpg").unlink(), "class folder .*basophil is empty"),
        (lambda folder: (folder / "basophil" / "basophil_000.jpg").write_bytes(b"x"), "no readable image of basophil"),
        (lambda folder: (folder / "mixt").mkdir(), "unknown class folder .*mixt"),
    ],
)
def test_lisc_errors_name_the_folder(tmp_path, damage, message):
    make_classes(tmp_path, LISC_CLASSES, 1)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        LISC.build(tmp_path)


@pytest.mark.skipif("WBC_LISC_DIR" not in os.environ, reason="WBC_LISC_DIR is not set")
def test_published_lisc_has_the_published_counts():
    (part,) = LISC.build(os.environ["WBC_LISC_DIR"]).values()
    assert list(class_counts(part).values()) == [55, 38, 57, 47, 56]
