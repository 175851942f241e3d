"""The metadata of cards, checked as the Hub checks them."""

import math
import re

import yaml

LICENSES = {"apache-2.0", "mit", "cc-by-4.0"}  # of the Hub's list, those that occur here
SDKS = {"gradio", "docker", "static"}
TASKS = {"image-classification"}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def card_errors(content: str, kind: str) -> list[str]:
    """The errors for which the Hub would refuse a README.md, as far as this project's cards use its metadata."""
    match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if match is None:
        return ["the card has no metadata"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"the metadata are not YAML: {error}"]
    errors = [f'"license" {name!r} is unknown' for name in _listed(data.get("license", [])) if name not in LICENSES]
    errors += [
        f'"{key}" names {name!r}, which is no id'
        for key in ("models", "datasets", "base_model")
        for name in _listed(data.get(key, []))
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    ]
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        errors.append('"tags" must be texts')
    return errors + {"model": _model_errors, "dataset": _dataset_errors, "space": _space_errors}[kind](data)


def _model_errors(data: dict) -> list[str]:
    errors = []
    if data.get("pipeline_tag", "image-classification") not in TASKS:
        errors.append(f'"pipeline_tag" {data["pipeline_tag"]!r} is unknown')
    if not all("results" in model for model in data.get("model-index", [])):
        return [*errors, '"model-index" needs results']
    for result in (result for model in data.get("model-index", []) for result in model["results"]):
        if not re.fullmatch(r"(?:[\w-]+/)?[\w.-]+", result.get("dataset", {}).get("type", "")):
            errors.append('"model-index" has a dataset type that fails to match the required pattern')
        if not {"type", "name"} <= result.get("dataset", {}).keys():
            errors.append('"model-index" needs type and name of the dataset')
        if result.get("task", {}).get("type") not in TASKS:
            errors.append('"model-index" needs a known task')
        for metric in result.get("metrics", []):
            if not {"type", "value"} <= metric.keys() or not _is_number(metric["value"]):
                errors.append('"model-index" needs type and value of each metric')
    return errors


def _dataset_errors(data: dict) -> list[str]:
    tasks = data.get("task_categories", [])
    errors = [f'"task_categories" {task!r} is unknown' for task in tasks if task not in TASKS]
    for config in data.get("configs", []):
        if not {"config_name", "data_files"} <= config.keys():
            errors.append('"configs" needs config_name and data_files')
    return errors


def _space_errors(data: dict) -> list[str]:
    errors = []
    if data.get("sdk") not in SDKS:
        errors.append(f'"sdk" must be one of {sorted(SDKS)}, got {data.get("sdk")!r}')
    if not re.fullmatch(r"\d+\.\d+\.\d+", str(data.get("sdk_version", ""))):
        errors.append(f'"sdk_version" {data.get("sdk_version")!r} is no version')
    if len(str(data.get("short_description", ""))) > 60:
        errors.append('"short_description" is longer than 60 characters')
    if {"colorFrom", "colorTo"} & data.keys() and not {data.get("colorFrom"), data.get("colorTo")} <= COLOURS:
        errors.append('"colorFrom" and "colorTo" must be colours that the Hub knows')
    return errors


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
