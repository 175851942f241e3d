"""The Space: the demo with everything that it needs to run outside of this repository."""

import re
import shutil
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import SpaceCard, SpaceCardData

_ROOT = Path(__file__).parents[2]
_TEMPLATE = Path(__file__).parent / "cards" / "space.md"
# Imports of app.py and of the code beside the weights. The Hub installs Gradio itself.
_REQUIRED = ("huggingface_hub", "numpy", "Pillow", "torch", "torchvision", "transformers")
_PYTHON = "3.12"


def stage(folder: Path, repo_id: str, model_id: str, dataset_id: str) -> None:
    """Write the Space's repository: `app.py`, its requirements, the examples, and the card that names its model.

    Args:
        folder: An empty folder.
        repo_id: The id of the Space on the Hub.
        model_id: The id of its model, which the Hub fetches when it builds the Space.
        dataset_id: The id of the dataset that the model was trained on.
    """
    shutil.copy(_ROOT / "app.py", folder)
    shutil.copytree(_ROOT / "space", folder / "space", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(_ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.png"))
    lines = (_ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = [line for line in lines if re.split("[^A-Za-z0-9_-]", line)[0] in _REQUIRED]
    (folder / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
    data = SpaceCardData(
        title="White blood cells",
        short_description="White blood cells of a smear: found, typed and counted",
        emoji="🔬",
        colorFrom="purple",
        colorTo="pink",
        sdk="gradio",
        sdk_version=version("gradio"),
        python_version=_PYTHON,
        app_file="app.py",
        suggested_hardware="cpu-basic",  # 2 cores and 16 GB; on ZeroGPU the page asks for a GPU by itself
        license="apache-2.0",
        models=[model_id],
        datasets=[dataset_id],
        preload_from_hub=[model_id],
        tags=["hematology", "microscopy", "white-blood-cell"],
    )
    card = SpaceCard.from_template(
        data, template_path=str(_TEMPLATE), repo_id=repo_id, model_id=model_id, dataset_id=dataset_id
    )
    card.save(folder / "README.md")
