"""WBCConfig: defaults, refused values, saving."""

import json

import pytest

from modeling_wbc import WBCConfig


def test_config_defaults():
    config = WBCConfig()
    assert config.id2label == {0: "eosinophil", 1: "lymphocyte", 2: "monocyte", 3: "neutrophil"}
    assert config.label2id == {"eosinophil": 0, "lymphocyte": 1, "monocyte": 2, "neutrophil": 3}
    assert config.num_labels == 4
    assert config.model_type == "wbc"
    assert (config.embedding_size, config.layer_type) == (64, "basic")
    assert (list(config.hidden_sizes), list(config.depths)) == ([64, 128, 256, 512], [3, 4, 6, 3])
    assert (config.norm_layout, config.mining, config.image_size) == ("ibn", "batch", 224)
    assert (config.center_loss_weight, config.center_loss_margin, config.center_loss_alpha) == (0.001, 1.0, 0.5)


def test_config_takes_other_labels():
    assert WBCConfig(num_labels=3).num_labels == 3
    assert len(WBCConfig(num_labels=3).id2label) == 3
    config = WBCConfig(id2label={0: "blast", 1: "band"})
    assert config.num_labels == 2
    assert config.label2id == {"blast": 0, "band": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("norm_layout", "gn"),
        ("mining", "hard"),
        ("center_loss_weight", -0.1),
        ("center_loss_margin", -1.0),
        ("center_loss_alpha", -0.1),
        ("center_loss_alpha", 1.1),
        ("temperature", 0),
        ("temperature", -1.0),
        ("max_novelty", 0.0),
        ("max_smear_novelty", -1.0),
        ("layer_type", "bottleneck"),
    ],
)
def test_config_refuses_a_wrong_value(name, value):
    with pytest.raises(ValueError) as error:
        WBCConfig(**{name: value})
    assert name in str(error.value)
    assert str(value) in str(error.value)


def test_config_survives_json(tmp_path):
    values = {
        "norm_layout": "ibn-b",
        "center_loss_weight": 0.5,
        "center_loss_margin": 3.0,
        "center_loss_alpha": 0.25,
        "mining": "class",
        "image_size": 96,
        "hidden_sizes": [8, 16],
        "depths": [1, 2],
        "embedding_size": 4,
        "id2label": {0: "blast", 1: "band", 2: "other"},
    }
    config = WBCConfig(**values)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "wbc"
    loaded = WBCConfig.from_pretrained(tmp_path)
    for name, value in values.items():
        assert getattr(loaded, name) == value, name
    assert loaded.label2id == config.label2id
    WBCConfig().save_pretrained(tmp_path)
    assert WBCConfig.from_pretrained(tmp_path).to_dict() == WBCConfig().to_dict() | {
        "auto_map": {"AutoConfig": "configuration_wbc.WBCConfig"}
    }
