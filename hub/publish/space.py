"""The Space: the demo with what it needs to run alone."""

import re
import shutil
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

_ROOT = Path(__file__).parents[2]
_TEMPLATE = Path(__file__).parent / "cards" / "space.md"
# What app.py and the code beside the weights import, and datasets for its examples; the Hub adds Gradio by itself.
_REQUIRED = ("datasets", "huggingface_hub", "numpy", "Pillow", "torch", "torchvision", "transformers")
_PYTHON = "3.12"


def stage(folder: Path, repo_id: str, model_id: str, dataset_id: str) -> None:
    """Write the Space's repository: `app.py`, its requirements, drawn examples, and the card that names its model.

    Args:
        folder: An empty folder.
        repo_id: The id it is to have on the Hub.
        model_id: The model that it shows, which the Hub fetches when it builds the Space.
        dataset_id: The dataset that it takes examples from.
    """
    shutil.copy(_ROOT / "app.py", folder)
    shutil.copytree(_ROOT / "space", folder / "space", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(_ROOT / "examples", folder / "examples", ignore=lambda _, names: {*names} - {*_jpegs(names)})
    lines = (_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = [line for line in lines if re.split("[^A-Za-z0-9_-]", line)[0] in _REQUIRED]
    (folder / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
    data = SpaceCardData(
        title="White blood cells",
        short_description="White blood cells of a smear: found, named, counted",
        emoji="🔬",
        colorFrom="purple",
        colorTo="pink",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=_PYTHON,
        app_file="app.py",
        license="apache-2.0",
        models=[model_id],
        datasets=[dataset_id],
        preload_from_hub=[model_id],
        tags=["hematology", "microscopy", "white-blood-cell"],
    )
    card = SpaceCard.from_template(
        data, template_path=_TEMPLATE, repo_id=repo_id, model_id=model_id, dataset_id=dataset_id
    )
    card.save(folder / "README.md")


def _jpegs(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".jpg")]
