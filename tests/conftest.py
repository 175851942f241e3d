"""Shared by all tests: no network, and models small enough for seconds."""

import os

# Before any import of huggingface_hub, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest

# Imports that need datasets or OpenCV stand in the fixture that needs them: most tests do without.


@pytest.fixture(scope="session")
def drawn():
    """36 drawn photographs of BCCD's size by name; number 32 shows the field of number 0, shifted."""
    from tests.raw_folders import draw_photographs

    return draw_photographs()


@pytest.fixture(scope="session")
def raw(drawn, tmp_path_factory):
    """The raw folder of a small BCCD with its photographs. A test that changes it works on a copy."""
    from tests.raw_folders import make_bccd_with_photographs

    return make_bccd_with_photographs(tmp_path_factory.mktemp("raw") / "bccd", drawn)


@pytest.fixture(scope="session")
def built(raw):
    """The data set built from `raw`, and its registration."""
    from hub.data.bccd import build_bccd

    return build_bccd(raw)


@pytest.fixture
def bccd(tmp_path):
    """The raw folder of a small BCCD without photographs: 3, 2 and 1 images of each class and split."""
    from tests.raw_folders import make_bccd

    return make_bccd(tmp_path / "images")
