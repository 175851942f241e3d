"""The command line: `python -m hub COMMAND ...`. Each command is a function of its room that Python can call too."""

from __future__ import annotations

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# Each command imports its room when it runs: torch and transformers take seconds, and --help does without.

# Default names of the repositories, and default folders of their contents.
MODEL_NAME = "wbc-ibn-resnet34"
DATASET_NAME = "bccd-wbc"
CHECKPOINT = Path("hub/checkpoint")
BUILT = Path("data/blood8")
# The published labs, and those that a union may have: the keys of `hub.data.union.PUBLISHERS`, and its `UNITED`.
LABS = ("bccd", "pbc", "chula", "lisc", "raabin")
UNITED = ("bccd", "pbc", "chula")


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments. Default: those of the process.

    Returns:
        The exit status: 0, or 1 after a user's or an operating system's error, printed as one line.

    Raises:
        SystemExit: The arguments are wrong (status 2), or ask for help (0).
    """
    from hub.files import UserError, one_line
    from hub.former_names import present_names

    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m hub", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_dataset, _model, _space, _predict, _adapt, _compare, _labs, _mistakes):
        add(commands)
    for add in (_detection, _ood, _ablations, _docs):
        add(commands)
    args = parser.parse_args(present_names(sys.argv[1:] if argv is None else argv))
    try:
        args.run(args)
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _add(commands, name: str, help: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
    """Add a command. `run` gets its arguments, and its parser among them for errors of usage."""
    parser = commands.add_parser(name, help=help)
    parser.set_defaults(run=run, parser=parser)
    return parser


def _folder(parser, flag: str, help: str, **options) -> None:
    """Add an argument that is a folder."""
    parser.add_argument(flag, type=Path, metavar="DIR", help=help, **options)


def _output(parser: argparse.ArgumentParser, classifier: bool = False) -> None:
    """Add the argument --output, and --model for a command that runs a classifier."""
    if classifier:
        help = f"classifier, by folder or id on the Hub (default: {CHECKPOINT})"
        parser.add_argument("--model", metavar="ID", default=CHECKPOINT, help=help)
    _folder(parser, "--output", "folder to write; new or empty", required=True)


# --- Data sets ---


def _dataset(commands) -> None:
    group = commands.add_parser("dataset", help="build a data set from raw images, audit its labels, publish it")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    build = _add(actions, "build", "raw folders or the publisher's archive -> a saved DatasetDict", _run_build)
    help = f"{', '.join(LABS)}; `folder`, your images; `union`, labs under eight types (`blood8`: bccd and pbc)"
    build.add_argument("name", choices=(*LABS, "folder", "union", "blood8"), metavar="NAME", help=help)
    origin = build.add_mutually_exclusive_group()
    _folder(origin, "--source", "the raw images of one lab as published, or your own, one folder for each class")
    origin.add_argument("--download", action="store_true", help="fetch the published archive (bccd only)")
    for lab in UNITED:
        _folder(build, f"--{lab}", f"the raw images of {lab}, for a union")
    _folder(build, "--wbcatt", "WBCAtt's tables of attributes, for pbc or a union with it")
    build.add_argument("--lab", metavar="NAME", help="the name of your lab (folder only)")
    help = r"pattern of slide or patient in your file names, with one group, such as '^(\w+)_' (folder only)"
    build.add_argument("--group", metavar="REGEX", help=help)
    _output(build)
    build.add_argument("--seed", type=int, default=0, help="seed of the splits that are cut here (default: 0)")
    help = "list BCCD's photographs whose label cross-validation disagrees with"
    audit = _add(actions, "audit", help, _run_audit)
    _folder(audit, "--source", "holds Original_Images, labels.csv, Annotations", required=True)
    _output(audit)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        help = f"the output of `python -m hub dataset build` (default: {BUILT})"
        _folder(parser, "--dataset", help, default=BUILT)

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


def _run_audit(args: argparse.Namespace) -> None:
    from hub.study.label_audit import audit, describe

    print(describe(*audit(args.source, args.output)))
    print(f"look at {args.output / 'wrong.png'}; all judgements are in {args.output / 'judgements.csv'}")


# --- Publishing ---


def _model(commands) -> None:
    group = commands.add_parser("model", help="make a trained classifier ready to publish, and publish it")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    help = "write float16 weights, configuration, image processor and code"
    export = _add(actions, "export", help, _run_export)
    export.add_argument("source", metavar="ID", help="a classifier, by folder or id on the Hub")
    _folder(export, "--output", "folder to write, over what is there", required=True)
    report = _add(actions, "report", "write results.json, plots and card of an exported classifier", _run_report)
    report.add_argument("folder", type=Path, metavar="FOLDER", help="the exported classifier")
    _folder(report, "--evaluation", "output folder of train.py --do_eval", required=True)
    _folder(report, "--ood", "output folder of python -m hub ood", required=True)
    _folder(report, "--training", "output folders of train.py, in order", nargs="+", required=True)
    _folder(report, "--labs", "output folder of python -m hub labs")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        help = f"the exported classifier, with its report (default: {CHECKPOINT})"
        _folder(parser, "--checkpoint", help, default=CHECKPOINT)
        _add_id(parser, "dataset", DATASET_NAME, "the dataset that it was trained and measured on")

    def stage(args: argparse.Namespace, folder: Path) -> None:
        from hub.publish.model import stage

        stage(args.checkpoint, folder, args.repo_id, _id(args, "dataset", DATASET_NAME))

    _add_publishing(actions, "model", stage, add_arguments)
    versions = _add(actions, "compare", "compare two published versions: figures and sizes", _run_compare_models)
    versions.add_argument("versions", nargs=2, metavar="ID", help="NAME/NAME@REVISION or a folder")


def _run_compare_models(args: argparse.Namespace) -> None:
    from hub.publish.compare_models import compare_models, describe

    print(describe(compare_models(*args.versions)))


def _run_export(args: argparse.Namespace) -> None:
    from hub.publish.model import export

    export(args.source, args.output)


def _run_report(args: argparse.Namespace) -> None:
    from hub.publish.model import report

    report(args.folder, args.evaluation, args.ood, args.training, args.labs)


def _space(commands) -> None:
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

    staging = _add(actions, "stage", "write the repository to a folder, without network", run_stage)
    pushing = _add(actions, "push", "stage the repository and push it to the Hub as one commit", run_push)
    for parser in (staging, pushing):
        parser.add_argument("--repo-id", metavar="NAME/NAME", required=True, help="its id on the Hub")
        add_arguments(parser)
    _output(staging)
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


# --- Inference and evaluation ---


def _predict(commands) -> None:
    predict = _add(commands, "predict", "find and classify the white cells of images", _run_predict)
    predict.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="files, ZIP archives, or folders")
    predict.add_argument("--dataset", metavar="NAME", help="in their place a data set, by folder or id on the Hub")
    predict.add_argument("--split", metavar="NAME", default="test", help="of the data set (default: test)")
    predict.add_argument("--streaming", action="store_true", help="fetch its rows while they are read")
    _output(predict, classifier=True)
    predict.add_argument("--draw", action="store_true", help="also write each image with its cells drawn in")
    help = "processes that read images and find cells (default: half of the cores, or with a GPU all but one)"
    predict.add_argument("--workers", type=int, metavar="N", help=help)
    help = "cells that the network classifies at once (default: 32)"
    predict.add_argument("--batch-size", type=int, metavar="N", default=32, help=help)


def _run_predict(args: argparse.Namespace) -> None:
    if bool(args.images) == bool(args.dataset):
        args.parser.error("name images or a --dataset, one of both")
    if (args.workers or 0) < 0 or args.batch_size < 1:
        args.parser.error("--workers is at least 0, and --batch-size at least 1")
    from hub.inference.predict import describe, predict, readable_name
    from hub.inference.rows import Rows

    images = Rows(args.dataset, args.split, args.streaming) if args.dataset else args.images
    found = predict(images, args.model, args.output, args.draw, args.workers, args.batch_size)
    if found is not None:  # the first of several processes
        print(describe(found))
        print(f"each cell's box and probabilities are in {readable_name(args.output / 'cells.csv')}")


def _adapt(commands) -> None:
    adapt = _add(commands, "adapt", "adapt a copy of a classifier to a lab by images of its own", _run_adapt)
    adapt.add_argument("folder", type=Path, metavar="FOLDER", help="images of the lab")
    help = "types of the foremost cells of some images: columns file (path in FOLDER) and label"
    adapt.add_argument("--labels", type=Path, metavar="CSV", help=help)
    help = "the norms' statistics (default: move where the lab's shift is above the model's max_shift)"
    adapt.add_argument("--norms", choices=("move", "keep"), help=help)
    _output(adapt, classifier=True)


def _run_adapt(args: argparse.Namespace) -> None:
    from hub.inference.adapt import adapt, describe

    move_norms = None if args.norms is None else args.norms == "move"
    print(describe(adapt(args.folder, args.model, args.output, args.labels, move_norms)))
    print(f"the adapted copy is in {args.output}, for --model of other commands")


def _compare(commands) -> None:
    compare = _add(commands, "compare", "compare the runs of two recipes on the same images", _run_compare)
    for name in ("first", "second"):
        _folder(compare, f"--{name}", "output folders, one for each seed", nargs="+", required=True)
    compare.add_argument("--split", default="validation", help="whose predictions to compare (default: validation)")


def _run_compare(args: argparse.Namespace) -> None:
    from hub.evaluation.compare import compare, describe

    print(describe(compare(args.first, args.second, args.split), args.split))


def _labs(commands) -> None:
    labs = _add(commands, "labs", "measure a classifier in each lab, on the cells that it finds itself", _run_labs)
    help = "labs to measure, as for train.py's --dataset_name; repeat it for several"
    labs.add_argument("--dataset", metavar="NAME", action="append", required=True, help=help)
    help = "the splits to measure, of each lab the first that it has; a+b joins two (default: test validation)"
    labs.add_argument("--split", metavar="NAME", nargs="+", default=["test", "validation"], help=help)
    help = "also measure images as worse cameras and lamps give them, at four severities"
    labs.add_argument("--corruptions", action="store_true", help=help)
    help = "also measure what adapting to each lab brings, with 0 to 20 labelled cells a type"
    labs.add_argument("--adapt", action="store_true", help=help)
    _output(labs, classifier=True)


def _run_labs(args: argparse.Namespace) -> None:
    from hub.evaluation.adapting import check_adaptable, describe_adaptation, measure_adaptation
    from hub.evaluation.labs import describe, load_labs, measure
    from hub.inference.predict import load_classifier

    labs, model = load_labs(args.dataset, args.split), load_classifier(args.model)
    if args.adapt:
        check_adaptable(model)
    about = {"model": args.model, "command": f"python -m hub {shlex.join(sys.argv[1:])}"}
    print(describe(measure(model, labs, args.output, about, corruptions=args.corruptions)))
    print(f"each image's prediction is in {args.output / 'predictions.csv'}, the costliest mistakes in mistakes.png")
    if args.adapt:
        print(describe_adaptation(measure_adaptation(model, labs, args.output)))


def _mistakes(commands) -> None:
    mistakes = _add(commands, "mistakes", "draw the photographs of BCCD that a model misreads", _run_mistakes)
    mistakes.add_argument("predictions", type=Path, metavar="CSV", help="<split>_predictions.csv of train.py")
    _folder(mistakes, "--bccd", "holds Original_Images", required=True)
    mistakes.add_argument("--output", type=Path, metavar="PNG", required=True, help="the contact sheet to write")


def _run_mistakes(args: argparse.Namespace) -> None:
    from hub.study.detection import describe_mistakes, draw_mistakes

    print(describe_mistakes(draw_mistakes(args.predictions, args.bccd, args.output)))


# --- Studies and docs ---


def _detection(commands) -> None:
    detection = _add(commands, "detection", "measure detection, and classification of two cells", _run_detection)
    _folder(detection, "--bccd", "holds Original_Images, Annotations and labels.csv", required=True)
    _folder(detection, "--pbc", "holds a folder of single cells for each class")
    _output(detection, classifier=True)


def _run_detection(args: argparse.Namespace) -> None:
    from hub.study.detection import describe, measure

    print(describe(measure(args.bccd, args.output, args.pbc, args.model)))
    print(f"look at the pictures in {args.output}, where detection and annotation differ")


def _ood(commands) -> None:
    ood = _add(commands, "ood", "measure how many images that show no white cell are refused", _run_ood)
    ood.add_argument("--dataset_name", metavar="NAME", required=True, help="the smears to keep, as for train.py")
    ood.add_argument("--split", default="test", help="of these (default: test)")
    _folder(ood, "--bccd", "holds Original_Images and Annotations; adds crops of red cells alone")
    _output(ood, classifier=True)


def _run_ood(args: argparse.Namespace) -> None:
    from hub.study.ood import describe, measure

    print(describe(measure(args.model, args.dataset_name, args.output, args.split, args.bccd)))
    print(f"\nlook at {args.output / 'accepted.png'}: the images with a cell that was not refused")


def _ablations(commands) -> None:
    help = "train the missing rows of the paper's baselines and of the ablations, and report all"
    ablations = _add(commands, "ablations", help, _run_ablations)
    _folder(ablations, "--output", "folder of the rows and the report", required=True)
    help = f"the two labs, by `python -m hub dataset build blood8` (default: {BUILT})"
    _folder(ablations, "--dataset", help, default=BUILT)
    help = "only these, by name or table; * stands for anything (default: all)"
    ablations.add_argument("--rows", nargs="+", metavar="NAME", help=help)
    help = "of all rows alike (default: 10 epochs at the size that each network was made for)"
    ablations.add_argument("--budget", nargs=2, type=int, metavar=("EPOCHS", "PIXELS"), help=help)
    help = "start the baselines from ImageNet weights, and add rows that do"
    ablations.add_argument("--imagenet", action="store_true", help=help)
    ablations.add_argument("--report", action="store_true", help="train nothing, only report what is there")


def _run_ablations(args: argparse.Namespace) -> None:
    from hub.study.ablations import run

    print(run(args.output, args.dataset, args.rows, args.budget, args.imagenet, args.report))


def _docs(commands) -> None:
    help = "write the figures of README, docs and model card from the results"
    docs = _add(commands, "docs", help, _run_docs)
    docs.add_argument("--check", action="store_true", help="change nothing; exit with 1 and name what differs")


def _run_docs(args: argparse.Namespace) -> None:
    from hub.files import UserError
    from hub.publish.docs import update
    from hub.study.docs_tables import tables

    differences = update(check=args.check, given=tables())
    print("\n".join(differences or ["README, docs and model card agree with the results"]))
    if differences and args.check:
        raise UserError(f"{len(differences)} passages differ from the results: run `python -m hub docs`")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that it cannot encode
    # An exception instead of sudden death, so that incomplete output is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
