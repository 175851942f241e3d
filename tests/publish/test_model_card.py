import numpy as np
import pytest
from huggingface_hub import ModelCard

from hub.evaluation.format import markdown_table_1
from hub.evaluation.metrics import WBCMetric
from hub.evaluation.plots import plot_confusion_matrix, plot_learning_curves
from hub.publish.model_card import CardFacts, write_card

NAMES = ["EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"]
DRAWN = "trained and measured on drawn cells"


def results_of(names=NAMES, n=200, seed=0):
    rng = np.random.default_rng(seed)
    references = rng.integers(0, len(names), n)
    predictions = np.where(rng.random(n) < 0.8, references, rng.integers(0, len(names), n))
    return WBCMetric().compute(predictions=predictions, references=references, label_names=names)


def card_of(folder, **kwargs):
    given = {
        "results": results_of(),
        "label_names": NAMES,
        "dataset_name": "someone/cells",
        "split": "validation",
        "base_model": "microsoft/resnet-34",
        "command": "accelerate launch train.py --dataset_name someone/cells",
        "recipe": {"learning rate": 0.00123, "norm layout": "ibn", "odd|name": "a|b"},
    }
    path = write_card(folder, CardFacts(**given | kwargs))
    assert path == folder / "README.md"
    return ModelCard.load(path)


def test_card_metadata(tmp_path):
    results = results_of()
    card = card_of(tmp_path, results=results, model_id="me/my-wbc")
    data = card.data
    assert (data.license, data.library_name) == ("apache-2.0", "transformers")
    assert data.pipeline_tag == "image-classification"
    assert {"white-blood-cell", "hematology", "resnet", "ibn-net", "center-loss"} <= set(data.tags)
    assert (data.datasets, data.base_model, data.model_name) == (["someone/cells"], "microsoft/resnet-34", "my-wbc")
    values = {entry.metric_type: entry.metric_value for entry in data.eval_results}
    assert values == {
        "accuracy": results["accuracy"],
        "precision": results["macro_precision"],
        "recall": results["macro_recall"],
        "f1": results["macro_f1"],
    }
    for entry in data.eval_results:
        assert (entry.dataset_type, entry.dataset_split) == ("someone/cells", "validation")


@pytest.mark.parametrize("name", ["drawn cells", "/data/cells", "data", "a/b/c", "local/cells"])
def test_card_links_to_hub_ids_only(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local" / "cells").mkdir(parents=True)
    card = card_of(tmp_path, dataset_name=name, base_model=None)
    assert card.data.datasets is None
    assert card.data.base_model is None
    assert {entry.dataset_type for entry in card.data.eval_results} == {"imagefolder"}
    assert "random weights" in card.text


def test_card_text(tmp_path):
    folder = tmp_path / "my-wbc"
    folder.mkdir()
    results = results_of()
    text = card_of(folder, results=results).text
    assert 'pipeline("image-classification", model="my-wbc", trust_remote_code=True)' in text
    assert markdown_table_1(results, NAMES) in text
    assert "`validation` split of someone/cells, 200 images.\n" in text
    assert "```bash\naccelerate launch train.py --dataset_name someone/cells\n```" in text
    assert "| learning rate | 0.00123 |\n| norm layout | ibn |\n| odd\\|name | a\\|b |\n" in text
    assert "Research use only, not for diagnosis" in text
    for source in ("10.16208/j.issn1000-7024.2020.10.046", "IBN-Net", "Deep Residual Learning", "Wen, Yandong"):
        assert source in text
    assert "{{" not in text
    assert "{%" not in text
    assert "None" not in text
    assert "\n\n\n" not in text
    assert max(map(len, text.splitlines())) < 200


def test_card_shows_the_plots_it_has(tmp_path):
    assert "](confusion_matrix.png)" not in card_of(tmp_path).text
    plot_confusion_matrix(results_of(), NAMES, tmp_path / "confusion_matrix.png", "Validation split")
    text = card_of(tmp_path).text
    assert "](confusion_matrix.png)" in text
    assert "](learning_curves.png)" not in text
    log = [{"epoch": float(epoch), "loss": 1 / epoch} for epoch in (1, 2, 3)]
    plot_learning_curves(log, tmp_path / "learning_curves.png")
    assert "](learning_curves.png)" in card_of(tmp_path).text


def test_card_says_what_the_data_are_worth(tmp_path):
    plain, drawn, bccd = (card_of(tmp_path, **flag).text for flag in ({}, {"synthetic": True}, {"bccd": True}))
    assert [DRAWN in text for text in (plain, drawn, bccd)] == [False, True, False]
    assert ["drawn" in text for text in (plain, drawn, bccd)] == [False, True, False]
    assert ["71 photographs" in text for text in (plain, drawn, bccd)] == [False, False, True]
    with pytest.raises(ValueError, match="at most one"):
        card_of(tmp_path, synthetic=True, bccd=True)
