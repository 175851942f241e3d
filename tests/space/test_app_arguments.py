"""Wrong arguments of the app: one line, and the status of wrong usage."""

import importlib.util
import json

import pytest

import app
from space.classifier import Classifier


def refused(monkeypatch, capsys, *arguments):
    """The line that the app ends with."""
    monkeypatch.setattr("sys.argv", ["app.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    # Transformers reports its progress before.
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("port", ["99999", "0", "-1", "http", "٣"])
def test_refuses_a_port_that_is_none(monkeypatch, capsys, port):
    line = refused(monkeypatch, capsys, f"--port={port}")
    assert line == f"error: --port must be a number from 1 to 65535, got {port}"
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    assert refused(monkeypatch, capsys) == line


def test_an_empty_variable_of_the_environment_is_none(monkeypatch):
    monkeypatch.setattr("sys.argv", ["app.py"])
    for name in ("WBC_MODEL", "GRADIO_SERVER_PORT", "GRADIO_SERVER_NAME"):
        monkeypatch.setenv(name, "")
    args = app.arguments()
    assert (args.model, args.port, args.host) == (str(app.HERE / "hub" / "checkpoint"), 7860, "127.0.0.1")


def test_names_the_extra_of_mcp(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mcp" else find_spec(name))
    assert 'pip install "gradio[mcp]"' in refused(monkeypatch, capsys, "--mcp")


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        (None, "there is no such folder"),
        ({}, "cannot be loaded: Unrecognized model"),
        ({"model_type": "resnet"}, "cannot be loaded: "),
        ({"model_type": "none of these"}, "cannot be loaded: "),
    ],
)
def test_names_a_model_that_cannot_be_loaded(monkeypatch, capsys, tmp_path, configuration, reason):
    folder = tmp_path / "model"
    if configuration is not None:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    line = refused(monkeypatch, capsys, "--model", str(folder))
    assert line.startswith(f"error: --model {folder}")
    assert reason in line


def test_refuses_a_model_that_detects_no_cells(tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ResNetForImageClassification, which detects no cells"):
        Classifier(str(tmp_path))


def test_a_port_in_use_is_one_line(monkeypatch, capsys):
    class Page:
        head = ""

        def launch(self, **_):
            raise OSError("Cannot find empty port in range: 7860-7860.")

    monkeypatch.setattr(app, "_load", lambda source: None)
    monkeypatch.setattr(app, "build", lambda classifier: Page())
    assert "port 7861: Cannot find empty port" in refused(monkeypatch, capsys, "--port", "7861")
