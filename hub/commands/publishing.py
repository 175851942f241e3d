"""Commands that build data sets, and publish data set, model and Space."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from hub.commands.options import (
    BUILT,
    CHECKPOINT,
    DATASET_NAME,
    LABS,
    MODEL_NAME,
    UNITED,
    add_command,
    add_folder,
    add_output,
)

# Each command imports its room when it runs: torch and transformers take seconds, and --help does without.


def add_dataset(commands) -> None:
    """Add `python -m hub dataset`."""
    group = commands.add_parser("dataset", help="build a data set from raw images, audit its labels, publish it")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    build = add_command(actions, "build", "raw folders or the publisher's archive -> a saved DatasetDict", _run_build)
    help = f"{', '.join(LABS)}; `folder`, your images; `union`, labs under eight types (`blood8`: bccd and pbc)"
    build.add_argument("name", choices=(*LABS, "folder", "union", "blood8"), metavar="NAME", help=help)
    origin = build.add_mutually_exclusive_group()
    add_folder(origin, "--source", "the raw images of one lab as published, or your own, one folder for each class")
    origin.add_argument("--download", action="store_true", help="fetch the published archive (bccd only)")
    for lab in UNITED:
        add_folder(build, f"--{lab}", f"the raw images of {lab}, for a union")
    add_folder(build, "--wbcatt", "WBCAtt's tables of attributes, for pbc or a union with it")
    build.add_argument("--lab", metavar="NAME", help="the name of your lab (folder only)")
    help = r"pattern of slide or patient in your file names, with one group, such as '^(\w+)_' (folder only)"
    build.add_argument("--group", metavar="REGEX", help=help)
    add_output(build)
    build.add_argument("--seed", type=int, default=0, help="seed of the splits that are cut here (default: 0)")
    help = "list BCCD's photographs whose label cross-validation disagrees with"
    audit = add_command(actions, "audit", help, _run_audit)
    add_folder(audit, "--source", "holds Original_Images, labels.csv, Annotations", required=True)
    add_output(audit)

    help = "cut the cells out of a data set: parquet files of at most 18 MB, which train.py --find_cell reads"
    pack = add_command(actions, "pack", help, _run_pack)
    pack.add_argument("name", metavar="NAME", help="as --dataset_name of train.py")
    add_output(pack)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        help = f"the output of `python -m hub dataset build` (default: {BUILT})"
        add_folder(parser, "--dataset", help, default=BUILT)

    def stage(args: argparse.Namespace, folder: Path) -> None:
        from hub.publish.dataset import stage

        stage(args.dataset, folder, args.repo_id)

    _add_publishing(actions, "dataset", stage, add_arguments)


def _run_build(args: argparse.Namespace) -> None:
    from hub.publish.build_summary import describe_build, origin_error
    from hub.publish.dataset import build

    if (error := origin_error(args.name, vars(args))) is not None:
        args.parser.error(error)
    if args.name == "blood8":
        print("blood8 is now built by `dataset build union --bccd DIR --pbc DIR`", file=sys.stderr)
    command = f"python -m hub {shlex.join(sys.argv[1:])}"
    options = {name: getattr(args, name) for name in ("source", *UNITED, "wbcatt", "lab", "group", "download", "seed")}
    print(describe_build(*build(args.name, args.output, command=command, **options)))
    print(f"saved to {args.output}, with a README.md about the data")


def _run_pack(args: argparse.Namespace) -> None:
    from hub.publish.pack import describe, pack

    print(describe(pack(args.name, args.output)))


def _run_audit(args: argparse.Namespace) -> None:
    from hub.study.label_audit import audit, describe

    print(describe(*audit(args.source, args.output)))
    print(f"look at {args.output / 'wrong.png'}; all judgements are in {args.output / 'judgements.csv'}")


def add_model(commands) -> None:
    """Add `python -m hub model`."""
    group = commands.add_parser("model", help="make a trained classifier ready to publish, and publish it")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    help = "write float16 weights, configuration, image processor and code"
    export = add_command(actions, "export", help, _run_export)
    export.add_argument("source", metavar="ID", help="a classifier, by folder or id on the Hub")
    add_folder(export, "--output", "folder to write, over what is there", required=True)
    help = "average the weights of a classifier and of one that was trained on from it"
    average = add_command(actions, "average", help, _run_average)
    average.add_argument("first", metavar="ID", help="the classifier before, by folder or id on the Hub")
    average.add_argument("second", metavar="ID", help="the classifier after, likewise")
    average.add_argument("--share", type=float, default=0.5, help="of the second, in [0, 1] (default: 0.5)")
    add_folder(average, "--output", "folder to write, over what is there", required=True)
    help = "write a classifier as ONNX, for --backend onnx and WBC_BACKEND"
    onnx = add_command(actions, "onnx", help, _run_onnx)
    onnx.add_argument("source", metavar="ID", help="a classifier, by folder or id on the Hub")
    add_folder(onnx, "--output", "folder to write to, such as that of the classifier", required=True)
    onnx.add_argument("--calibrate", metavar="NAME", help="data set whose training cells calibrate an int8 model too")
    report = add_command(
        actions, "report", "write results.json, plots and card of an exported classifier", _run_report
    )
    report.add_argument("folder", type=Path, metavar="FOLDER", help="the exported classifier")
    add_folder(report, "--evaluation", "output folder of train.py --do_eval", required=True)
    add_folder(report, "--ood", "output folder of python -m hub ood", required=True)
    add_folder(report, "--training", "output folders of the trainings, in order", nargs="+", required=True)
    add_folder(report, "--exported", "output folder of the evaluation before the export (default: the last training)")
    add_folder(report, "--labs", "output folder of python -m hub labs")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        help = f"the exported classifier, with its report (default: {CHECKPOINT})"
        add_folder(parser, "--checkpoint", help, default=CHECKPOINT)
        _add_id(parser, "dataset", DATASET_NAME, "the dataset that it was trained and measured on")

    def stage(args: argparse.Namespace, folder: Path) -> None:
        from hub.publish.model import stage

        stage(args.checkpoint, folder, args.repo_id, _id(args, "dataset", DATASET_NAME))

    _add_publishing(actions, "model", stage, add_arguments)
    versions = add_command(
        actions, "compare", "compare two published versions: figures and sizes", _run_compare_models
    )
    versions.add_argument("versions", nargs=2, metavar="ID", help="NAME/NAME@REVISION or a folder")


def _run_compare_models(args: argparse.Namespace) -> None:
    from hub.publish.compare_models import compare_models, describe

    print(describe(compare_models(*args.versions)))


def _run_average(args: argparse.Namespace) -> None:
    from hub.publish.average import average

    average(args.first, args.second, args.share, args.output)


def _run_export(args: argparse.Namespace) -> None:
    from hub.publish.model import export

    export(args.source, args.output)


def _run_onnx(args: argparse.Namespace) -> None:
    from hub.inference.onnx import write_onnx

    print("\n".join(f"wrote {path}" for path in write_onnx(args.source, args.output, args.calibrate)))


def _run_report(args: argparse.Namespace) -> None:
    from hub.publish.model import report

    report(args.folder, args.evaluation, args.ood, args.training, args.labs, args.exported)


def add_space(commands) -> None:
    """Add `python -m hub space`."""
    group = commands.add_parser("space", help="publish the demo")
    actions = group.add_subparsers(metavar="ACTION", required=True)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        _add_id(parser, "model", MODEL_NAME, "the model that it shows")
        _add_id(parser, "dataset", DATASET_NAME, "the dataset that its model was trained on")

    def stage(args: argparse.Namespace, folder: Path) -> None:
        from hub.publish.space import stage

        stage(folder, args.repo_id, _id(args, "model", MODEL_NAME), _id(args, "dataset", DATASET_NAME))

    _add_publishing(actions, "space", stage, add_arguments)


def _add_publishing(actions, repo_type: str, stage: Callable[[argparse.Namespace, Path], None], add_arguments) -> None:
    """Add `stage` and `push` to the actions of `python -m hub model|dataset|space`."""

    def run_stage(args: argparse.Namespace) -> None:
        from hub.publish.repository import describe_sizes, stage_to

        print(describe_sizes(stage_to(args.output, args.repo_id, repo_type, lambda folder: stage(args, folder))))
        print(f"staged in {args.output}")

    def run_push(args: argparse.Namespace) -> None:
        if args.create_pr and (args.revision or args.tag):
            args.parser.error("--create-pr opens a pull request on main: leave out --revision and --tag")
        from hub.publish.repository import describe_push, publish

        options = {name: getattr(args, name) for name in ("private", "revision", "create_pr", "tag", "dry_run")}
        sizes, commit = publish(
            args.repo_id, repo_type, lambda folder: stage(args, folder), args.commit_message, **options
        )
        print(describe_push(args.repo_id, sizes, commit, args.dry_run))

    staging = add_command(actions, "stage", "write the repository to a folder, without network", run_stage)
    pushing = add_command(actions, "push", "stage the repository and push it to the Hub as one commit", run_push)
    for parser in (staging, pushing):
        parser.add_argument("--repo-id", metavar="NAME/NAME", required=True, help="its id on the Hub")
        add_arguments(parser)
    add_output(staging)
    pushing.add_argument("--private", action="store_true", help="create the repository as a private one")
    pushing.add_argument("--revision", metavar="BRANCH", help="the branch to commit to (default: main)")
    pushing.add_argument("--commit-message", metavar="TEXT", help=f"default: 'Publish the {repo_type}'")
    pushing.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    pushing.add_argument("--tag", metavar="NAME", help="tag the commit, with that section of its CHANGELOG.md")
    pushing.add_argument("--dry-run", action="store_true", help="list files and sizes and push nothing")


def _add_id(parser: argparse.ArgumentParser, kind: str, name: str, what: str) -> None:
    parser.add_argument(f"--{kind}-id", metavar="NAME/NAME", help=f"{what} (default: {name} of the same owner)")


def _id(args: argparse.Namespace, kind: str, name: str) -> str:
    from hub.publish.repository import check_repo_id

    owner, _ = args.repo_id.split("/")
    return check_repo_id(getattr(args, f"{kind}_id") or f"{owner}/{name}")
