"""A Hub on loopback, and on it model, dataset and Space, pushed once by their commands.

WBC_BCCD_DIR and WBC_PBC_DIR, the folders of the published images, put real cells in place of the drawn ones.
"""

import os
import shutil
from pathlib import Path

import pytest

from hub.data.bccd import BCCD_CLASSES, BCCD_SPLITS
from hub.data.pbc import PBC_CLASSES
from hub.data.synthetic import draw_field
from modeling_wbc import WBCForImageClassification
from tests.publish.clients import CHECKPOINT, DATASET, MODEL, ROOT, SPACE, command
from tests.publish.hub_server import HubServer

BCCD, PBC = (Path(os.environ[name]) if name in os.environ else None for name in ("WBC_BCCD_DIR", "WBC_PBC_DIR"))


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture
def fresh(tmp_path):
    """A Hub of a test's own, on which things go wrong."""
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture(scope="session")
def raw_images(tmp_path_factory):
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


@pytest.fixture(scope="session")
def published(hub, raw_images, tmp_path_factory):
    """Model, dataset and Space, pushed by their three commands; the built dataset's folder."""
    home, built = tmp_path_factory.mktemp("publisher"), raw_images / "blood8"
    folders = ("--bccd", raw_images / "bccd", "--pbc", raw_images / "pbc", "--output", built)
    command(hub, home, "dataset", "build", "blood8", *folders)
    command(hub, home, "model", "push", "--repo-id", MODEL)
    command(hub, home, "dataset", "push", "--repo-id", DATASET, "--dataset", built)
    command(hub, home, "space", "push", "--repo-id", SPACE)
    return built


@pytest.fixture(scope="session")
def images():
    """Some images to classify, by path."""
    if BCCD and PBC:
        fields = sorted((BCCD / "Original_Images").iterdir())[:40:5]
        cells = [min((PBC / label).iterdir()) for label in PBC_CLASSES]
        return [str(path) for path in [*fields, *cells]]
    return [str(path) for path in sorted((ROOT / "examples").glob("*.jpg"))]


@pytest.fixture(scope="session")
def answers(images):
    """The probabilities of each cell of these images by the local checkpoint."""
    model = WBCForImageClassification.from_pretrained(CHECKPOINT)
    return [[list(cell.probabilities.values()) for cell in field.cells] for field in model.analyze(images)]
