"""What the Hub refuses or cannot show, found in a staged repository before anything is sent.

The Hub checks metadata when it receives a commit (`POST /api/validate-yaml`), after large files were uploaded, and
leaves the rest to failing builds, viewers and downloads. Sources of the rules below: huggingface_hub's own card
classes; the Hub's documentation (hub-docs: `modelcard.md`, `datasetcard.md`, `repositories-licenses.md`,
`spaces-config-reference.md`, `storage-limits.md`); and the messages of the Hub itself, as users quote them.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from huggingface_hub import DatasetCard, ModelCard, SpaceCard, SpaceHardware
from huggingface_hub.utils import HFValidationError, validate_repo_id
from yaml import YAMLError

from hub.files import UserError, one_line

# As listed in the Hub's message `"license" must be one of [...]`.
LICENSES = frozenset(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr "
    "mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr "
    "deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 "
    "grok2-community gemma unknown other".split()
)
# The Hub's tasks of computer vision, those of this project's models and data sets.
TASKS = frozenset(
    "depth-estimation image-classification image-feature-extraction image-segmentation image-to-image image-to-text "
    "mask-generation object-detection zero-shot-image-classification zero-shot-object-detection".split()
)
SIZE_CATEGORIES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M")
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SDKS = ("gradio", "docker", "static")
SHORT_DESCRIPTION = 60  # characters
# Pattern of `dataset.type` in a model-index.
_DATASET_TYPE = re.compile(r"(?:[\w-]+/)?[\w.-]+")
_FILE_BYTES = 200 * 10**9
_SPACE_BYTES = 10**9  # of a Space's repository
_FOLDER_ENTRIES = 10_000
_REPO_FILES = 100_000
# What the dataset viewer reads at once: beyond that it answers "Scan size limit exceeded".
_ROW_GROUP_BYTES = 300_000_000
_CARDS: dict[str, type] = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}


def check(folder: Path, repo_type: str, repo_id: str) -> None:
    """Check a staged repository as the Hub does.

    Args:
        folder: The staged repository.
        repo_type: `model`, `dataset` or `space`.
        repo_id: Its id, NAME/NAME.

    Raises:
        UserError: The Hub would refuse it, or could not show, load or build it; the message lists every reason.
    """
    errors = [*_file_errors(folder, repo_type)]
    card, card_errors = _read_card(folder, repo_type)
    errors += card_errors
    if card is not None:
        data = card.data.to_dict()
        errors += [*_common_errors(data), *_link_errors(card.text, data, folder, repo_id)]
        errors += _OWN[repo_type](data, folder)
    if repo_type == "model":
        errors += _code_errors(folder)
    if errors:
        raise UserError(f"the Hub would refuse this {repo_type}: {'; '.join(errors)}")


def _file_errors(folder: Path, repo_type: str) -> Iterator[str]:
    files = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if len(files) > _REPO_FILES:
        yield f"it has {len(files):,} files, at most {_REPO_FILES:,} are allowed"
    for path, size in files.items():
        if size > _FILE_BYTES:
            yield f"{path.relative_to(folder).as_posix()} has {size:,} bytes, at most {_FILE_BYTES:,} are allowed"
    for parent, count in Counter(path.parent for path in folder.rglob("*")).items():
        if count > _FOLDER_ENTRIES:
            yield f"{parent.relative_to(folder)}/ has {count:,} entries, at most {_FOLDER_ENTRIES:,} are allowed"
    if repo_type == "space" and (total := sum(files.values())) > _SPACE_BYTES:
        yield f"a Space has at most {_SPACE_BYTES:,} bytes, this one has {total:,}"


def _read_card(folder: Path, repo_type: str) -> tuple[ModelCard | DatasetCard | SpaceCard | None, list[str]]:
    """The card as huggingface_hub reads it, strictly, and the reasons why it cannot."""
    path = folder / "README.md"
    if not path.is_file():
        return None, ["a Space needs a README.md with its configuration"] if repo_type == "space" else []
    try:
        card = _CARDS[repo_type](path.read_text(encoding="utf-8"))
    except (ValueError, YAMLError) as error:
        return None, [f"README.md: {one_line(error)}"]
    return card, [] if card.data.to_dict() else ["README.md has no metadata"]


def _common_errors(data: dict) -> Iterator[str]:
    for name in _listed(data.get("license")):
        if name not in LICENSES:
            yield f'README.md: "license" {name!r} is none of the Hub\'s'
    for key in ("models", "datasets", "base_model"):
        for name in _listed(data.get(key)):
            if not _is_id(name):
                yield f'README.md: "{key}" names {name!r}, which is no id'
    for key in ("tags", "metrics"):
        if not all(isinstance(name, str) for name in _listed(data.get(key))):
            yield f'README.md: "{key}" must be a list of texts'


def _link_errors(text: str, data: dict, folder: Path, repo_id: str) -> Iterator[str]:
    """Images, links and examples of the card that name files which the repository lacks."""
    own = f"https://huggingface.co/{repo_id}/resolve/main/"
    sources = [example.get("src", "") for example in data.get("widget") or ()]
    named = [source.removeprefix(own) for source in sources if source.startswith(own)]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    named += re.findall(r"\]\((?![a-z]+:|#|/)([^)\s]+)\)", prose)
    for name in named:
        if not (folder / name.partition("#")[0]).is_file():
            yield f"README.md shows {name}, which is missing"


def _model_errors(data: dict, folder: Path) -> Iterator[str]:
    yield from _unknown(data, "pipeline_tag", TASKS)
    # The card's class has turned it into results before: every field of them is there.
    for result in (result for model in data.get("model-index", ()) for result in model["results"]):
        if not _DATASET_TYPE.fullmatch(str(result["dataset"]["type"])):
            yield f'README.md: "model-index" has the dataset type {result["dataset"]["type"]!r}, which is no id'
        if (task := result["task"]["type"]) not in TASKS:
            yield f'README.md: "model-index" has the task {task!r}, which is none of the Hub\'s'
        for metric in result["metrics"]:
            value = metric["value"]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                yield f'README.md: "model-index" has the {metric["type"]} {value!r}, which is no number'


def _code_errors(folder: Path) -> Iterator[str]:
    """Modules that `trust_remote_code` would look for in vain."""
    for name in ("config.json", "preprocessor_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            yield f"{name} is no JSON: {one_line(error)}"
            continue
        for reference in settings.get("auto_map", {}).values():
            # Of another repository, where there is a --.
            if "--" not in reference and not (folder / f"{reference.split('.')[0]}.py").is_file():
                yield f"{name} names {reference}, whose file is missing"


def _dataset_errors(data: dict, folder: Path) -> Iterator[str]:
    # Seconds of imports, which a model or a Space does without.
    from datasets.info import DatasetInfosDict
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    for key, known in (("task_categories", TASKS), ("size_categories", SIZE_CATEGORIES)):
        yield from _unknown(data, key, known)
    try:
        card_data = DatasetCardData(**data)
        configs = MetadataConfigs.from_dataset_card_data(card_data)
        configs.get_default_config_name()
        infos = DatasetInfosDict.from_dataset_card_data(card_data)
    except (ValueError, TypeError, KeyError) as error:
        yield f"README.md: {one_line(error)}"
        return
    if configs and infos and configs.keys() != infos.keys():
        yield f'README.md: "configs" has {sorted(configs)}, "dataset_info" has {sorted(infos)}'
        return
    for name, config in configs.items():
        yield from _config_errors(name, config.get("data_files") or [], infos.get(name), folder)


def _config_errors(name: str, data_files: list[dict], info, folder: Path) -> Iterator[str]:
    """Compare a configuration of a data set with its files."""
    import pyarrow.parquet as pq

    bytes_found = 0
    for split in data_files:
        paths = sorted({path for pattern in _listed(split["path"]) for path in folder.glob(pattern)})
        where = f"the split {split['split']} of the configuration {name}"
        if not paths:
            yield f"{where} has no files: {split['path']}"
            continue
        bytes_found += sum(path.stat().st_size for path in paths)
        tables = [pq.read_metadata(path) for path in paths if path.suffix == ".parquet"]
        for path, table in zip(paths, tables, strict=False):
            largest = max((table.row_group(n).total_byte_size for n in range(table.num_row_groups)), default=0)
            if largest > _ROW_GROUP_BYTES:
                yield (
                    f"{path.relative_to(folder).as_posix()} has a group of rows of {largest:,} bytes: the dataset "
                    f"viewer reads at most {_ROW_GROUP_BYTES:,} at once"
                )
        rows = sum(table.num_rows for table in tables)
        if info is not None and info.splits is not None and tables:
            told = info.splits[split["split"]].num_examples if split["split"] in info.splits else None
            if told != rows:
                yield f"{where} has {rows:,} rows, its metadata say {told}"
    if info is not None and info.download_size not in (None, bytes_found):
        yield f"the configuration {name} has {bytes_found:,} bytes, its metadata say {info.download_size:,}"


def _space_errors(data: dict, folder: Path) -> Iterator[str]:
    if data.get("sdk") not in SDKS:
        yield f'README.md: "sdk" must be one of {", ".join(SDKS)}, got {data.get("sdk")!r}'
    for key, pattern in (("sdk_version", r"\d+\.\d+\.\d+"), ("python_version", r"3\.\d+(\.\d+)?")):
        # YAML makes a number of 3.10 without quotation marks, and that is 3.1.
        if key in data and not (isinstance(data[key], str) and re.fullmatch(pattern, data[key])):
            yield f'README.md: "{key}" {data[key]!r} is no version, as a text'
    if not (folder / str(data.get("app_file"))).is_file():
        yield f'README.md: "app_file" names {data.get("app_file")!r}, which is missing'
    if len(str(data.get("short_description", ""))) > SHORT_DESCRIPTION:
        yield f'README.md: "short_description" has more than {SHORT_DESCRIPTION} characters'
    yield from _unknown(data, "colorFrom", COLOURS)
    yield from _unknown(data, "colorTo", COLOURS)
    yield from _unknown(data, "suggested_hardware", [hardware.value for hardware in SpaceHardware])
    if re.search(r"\w", str(data.get("emoji", ""))):
        yield f'README.md: "emoji" {data["emoji"]!r} is none'
    for line in _listed(data.get("preload_from_hub")):
        repo_id, *rest = str(line).split()
        if not _is_id(repo_id) or len(rest) > 2:
            yield f'README.md: "preload_from_hub" has {line!r} in place of an id, files and a revision'
    requirements = folder / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    if data.get("sdk") == "gradio" and any(re.match(r"gradio\b(?!_)", line) for line in lines):
        yield "requirements.txt names gradio, which the Hub installs by sdk_version"


def _unknown(data: dict, key: str, known: Iterable[str]) -> Iterator[str]:
    for value in _listed(data.get(key)):
        if value not in known:
            yield f'README.md: "{key}" {value!r} is none of the Hub\'s'


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _is_id(name: object) -> bool:
    """Whether a name is an id on the Hub, with or without an owner, and no path."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return len(PurePosixPath(str(name)).parts) <= 2


_OWN: dict[str, Callable[[dict, Path], Iterator[str]]] = {
    "model": _model_errors,
    "dataset": _dataset_errors,
    "space": _space_errors,
}
