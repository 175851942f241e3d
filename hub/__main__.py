"""The command line: `python -m hub COMMAND ...`. Each command is a function of its room that Python can call too."""

import argparse
import logging
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# Rooms are imported by the command that needs them: torch and transformers take seconds, and --help does without.

# What the repositories are called, and where what they hold lies, unless told otherwise.
MODEL_NAME = "wbc-ibn-resnet34"
DATASET_NAME = "bccd-wbc"
CHECKPOINT = Path("hub/checkpoint")
BUILT = Path("data/blood8")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 1 after an error that the user can mend."""
    from hub.files import UserError

    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m hub", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_dataset, _model, _space, _predict, _compare, _labs, _mistakes, _detection, _ood, _ablations, _docs):
        add(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


# --- Data sets ---


def _dataset(commands) -> None:
    group = commands.add_parser("dataset", help="build a data set from raw images, audit its labels, publish it")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    build = actions.add_parser("build", help="raw folders or the publisher's archive -> a saved DatasetDict")
    build.add_argument(
        "name",
        choices=("bccd", "pbc", "blood8"),
        help="BCCD (four classes), PBC (eight classes), or the union of both (eight classes)",
    )
    origin = build.add_mutually_exclusive_group()
    origin.add_argument("--source", type=Path, metavar="DIR", help="the raw images of bccd or pbc as published")
    origin.add_argument("--download", action="store_true", help="fetch the published archive (bccd only)")
    build.add_argument("--bccd", type=Path, metavar="DIR", help="the raw images of BCCD (blood8 only)")
    build.add_argument("--pbc", type=Path, metavar="DIR", help="the raw images of PBC (blood8 only)")
    _add_output(build)
    build.add_argument("--seed", type=int, default=0, help="seed of the splits that are cut here (default: 0)")
    build.set_defaults(run=lambda args: _run_build(build, args))

    audit = actions.add_parser(
        "audit", aliases=["review"], help="BCCD's photographs whose label cross-validation disagrees with"
    )
    audit.add_argument(
        "--source", type=Path, metavar="DIR", required=True, help="holds Original_Images, labels.csv, Annotations"
    )
    _add_output(audit)
    audit.set_defaults(run=_run_audit)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--dataset",
            type=Path,
            metavar="DIR",
            default=BUILT,
            help=f"what `python -m hub dataset build` wrote (default: {BUILT})",
        )

    def stage(args: argparse.Namespace, folder: Path) -> None:
        from hub.publish.dataset import stage

        stage(args.dataset, folder, args.repo_id)

    _add_publishing(actions, "dataset", stage, add_arguments)


def _run_build(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.name == "blood8":
        if not (args.bccd and args.pbc) or args.source or args.download:
            parser.error("blood8 needs --bccd DIR and --pbc DIR, and neither --source nor --download")
    elif args.bccd or args.pbc:
        parser.error(f"{args.name} takes --source DIR; --bccd and --pbc are for blood8")
    elif args.name == "pbc" and args.download:
        parser.error(
            "pbc needs --source: download the archive of doi 10.17632/snkd93bnjr.1 (described in doi "
            "10.1016/j.dib.2020.105474) by hand, unpack it and name its folder"
        )
    elif not (args.source or args.download):
        parser.error("one of the arguments --source --download is required")
    from hub.data.bccd import bccd_differences
    from hub.data.columns import counts_rows
    from hub.evaluation.format import text_table
    from hub.publish.dataset import build

    dataset, found = build(
        args.name,
        args.output,
        source=args.source,
        bccd=args.bccd,
        pbc=args.pbc,
        download=args.download,
        seed=args.seed,
        command=f"python -m hub {shlex.join(sys.argv[1:])}",
    )
    if args.name == "bccd":
        for difference in bccd_differences(dataset):
            print(f"not as published: {difference}")
    print(text_table(counts_rows(dataset)))
    if found:
        for split, row in found["shown"].items():
            print(
                f"{split}: {row['matched']:,} of {row['files']:,} files show {row['photographs']:,} photographs, "
                f"match error up to {row['worst']:.2f} grey levels"
            )
        for line in found["exceptions"]:
            print(line.replace("`", ""))
        print(
            f"{len(found['overlaps'])} pairs of photographs overlap, {len(found['leaks'])} of them between train and "
            f"test: {found['leaked_files']:,} test files show a field that train shows as well"
        )
    print(f"saved to {args.output}; README.md there tells what was found")


def _run_audit(args: argparse.Namespace) -> None:
    from hub.study.label_audit import audit

    judgements, wrong = audit(args.source, args.output)
    sure = sum(judgement.confidence >= 0.5 for judgement in wrong)
    print(
        f"{len(judgements) - len(wrong)} of {len(judgements)} photographs judged as labelled, {len(wrong)} otherwise, "
        f"{sure} of these with a confidence of 0.5 or more"
    )
    print(f"look at {args.output / 'wrong.png'}; all judgements are in {args.output / 'judgements.csv'}")


# --- Publishing ---


def _model(commands) -> None:
    group = commands.add_parser("model", help="make a trained classifier ready to publish, and publish it")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    export = actions.add_parser("export", help="float16 weights, configuration, image processor and code")
    export.add_argument("source", metavar="ID", help="a classifier, by folder or id on the Hub")
    export.add_argument(
        "--output", type=Path, metavar="DIR", required=True, help="folder to write, over what is there"
    )
    report = actions.add_parser("report", help="results.json, plots and card of an exported classifier")
    report.add_argument("folder", type=Path, metavar="FOLDER", help="the exported classifier's")
    report.add_argument(
        "--evaluation", type=Path, metavar="DIR", required=True, help="output folder of train.py --do_eval"
    )
    report.add_argument(
        "--ood", "--foreign", type=Path, metavar="DIR", required=True, help="output folder of python -m hub ood"
    )
    report.add_argument(
        "--training", type=Path, metavar="DIR", nargs="+", required=True, help="output folders of train.py, in order"
    )

    def run_export(args: argparse.Namespace) -> None:
        from hub.publish.model import export

        export(args.source, args.output)

    def run_report(args: argparse.Namespace) -> None:
        from hub.publish.model import report

        report(args.folder, args.evaluation, args.ood, args.training)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--checkpoint",
            type=Path,
            metavar="DIR",
            default=CHECKPOINT,
            help=f"the exported and reported classifier (default: {CHECKPOINT})",
        )
        _add_id(parser, "dataset", DATASET_NAME, "the dataset that it was trained and measured on")

    def stage(args: argparse.Namespace, folder: Path) -> None:
        from hub.publish.model import stage

        stage(args.checkpoint, folder, args.repo_id, _id(args, "dataset", DATASET_NAME))

    export.set_defaults(run=run_export)
    report.set_defaults(run=run_report)
    _add_publishing(actions, "model", stage, add_arguments)


def _space(commands) -> None:
    group = commands.add_parser("space", help="publish the demo")
    actions = group.add_subparsers(metavar="ACTION", required=True)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        _add_id(parser, "model", MODEL_NAME, "the model that it shows")
        _add_id(parser, "dataset", DATASET_NAME, "the dataset that its examples are from")

    def stage(args: argparse.Namespace, folder: Path) -> None:
        from hub.publish.space import stage

        stage(folder, args.repo_id, _id(args, "model", MODEL_NAME), _id(args, "dataset", DATASET_NAME))

    _add_publishing(actions, "space", stage, add_arguments)


def _add_publishing(actions, repo_type: str, stage: Callable[[argparse.Namespace, Path], None], add_arguments) -> None:
    """Add `stage` and `push` to the actions of `python -m hub model|dataset|space`."""
    staging = actions.add_parser("stage", help="write the repository to a folder, without network")
    pushing = actions.add_parser("push", help="stage the repository and push it to the Hub as one commit")
    for parser in (staging, pushing):
        parser.add_argument("--repo-id", metavar="NAME/NAME", required=True, help="its id on the Hub")
        add_arguments(parser)
    _add_output(staging)
    pushing.add_argument("--private", action="store_true", help="create it for its owner's eyes only")
    pushing.add_argument("--revision", metavar="BRANCH", help="the branch to commit to (default: main)")
    pushing.add_argument("--commit-message", metavar="TEXT", help=f"default: 'Publish the {repo_type}'")
    pushing.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    pushing.add_argument("--dry-run", action="store_true", help="list files and sizes and touch nothing")

    def run_stage(args: argparse.Namespace) -> None:
        from hub.publish.repository import stage_to

        _print_sizes(stage_to(args.output, args.repo_id, lambda folder: stage(args, folder)))
        print(f"staged in {args.output}")

    def run_push(args: argparse.Namespace) -> None:
        if args.create_pr and args.revision:
            pushing.error("--create-pr opens a pull request on main: leave out --revision")
        from hub.publish.repository import publish

        sizes, commit = publish(
            args.repo_id,
            repo_type,
            lambda folder: stage(args, folder),
            args.commit_message,
            private=args.private,
            revision=args.revision,
            create_pr=args.create_pr,
            dry_run=args.dry_run,
        )
        _print_sizes(sizes)
        if args.dry_run:
            print(f"would be pushed to {args.repo_id}; nothing was")
        elif commit is None:
            print(f"{args.repo_id} holds these files already: nothing was committed")
        else:
            print(f"pushed: {commit.pr_url or commit.commit_url}")

    staging.set_defaults(run=run_stage)
    pushing.set_defaults(run=run_push)


def _add_id(parser: argparse.ArgumentParser, kind: str, name: str, what: str) -> None:
    parser.add_argument(f"--{kind}-id", metavar="NAME/NAME", help=f"{what} (default: {name} of the same owner)")


def _id(args: argparse.Namespace, kind: str, name: str) -> str:
    from hub.publish.repository import check_repo_id

    owner, _ = args.repo_id.split("/")
    return check_repo_id(getattr(args, f"{kind}_id") or f"{owner}/{name}")


def _print_sizes(sizes: dict[str, int]) -> None:
    from hub.evaluation.format import text_table

    rows = [*sizes.items(), ("total", sum(sizes.values()))]
    print(text_table([["File", "Bytes"], *([name, f"{size:,}"] for name, size in rows)]))


# --- Reading images ---


def _predict(commands) -> None:
    predict = commands.add_parser("predict", help="find and classify the white cells of images")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="files, or folders of images")
    predict.add_argument("--model", metavar="ID", required=True, help="a classifier, by folder or id on the Hub")
    _add_output(predict)
    predict.add_argument("--draw", action="store_true", help="also write each image with its cells drawn in")
    predict.set_defaults(run=_run_predict)


def _run_predict(args: argparse.Namespace) -> None:
    from hub.evaluation.format import text_table
    from hub.inference.predict import predict

    found = predict(args.images, args.model, args.output, args.draw)
    total = sum(found["counts"].values())
    rows = [["Type", "Cells", "Share (%)"]]
    rows += [[label, f"{count:,}", f"{100 * count / max(1, total):.1f}"] for label, count in found["counts"].items()]
    print(text_table(rows))
    print(
        f"{total:,} cells, and {found['unknown']:,} that look like none, in {found['images']:,} images; "
        f"{found['unreadable']:,} could not be read"
    )
    print(f"each cell's box and probabilities are in {args.output / 'cells.csv'}")


# --- Evaluation ---


def _compare(commands) -> None:
    compare = commands.add_parser("compare", help="compare the runs of two recipes on the same images")
    for name in ("first", "second"):
        compare.add_argument(
            f"--{name}", type=Path, metavar="DIR", nargs="+", required=True, help="output folders, one for each seed"
        )
    compare.add_argument("--split", default="validation", help="whose predictions to compare (default: validation)")
    compare.set_defaults(run=_run_compare)


def _run_compare(args: argparse.Namespace) -> None:
    from hub.evaluation.compare import compare, comparison_rows
    from hub.evaluation.format import text_table

    compared = compare(args.first, args.second, args.split)
    shown = f", {compared['num_photographs']} photographs" if compared["num_photographs"] else ""
    print(
        f"{args.split}: {compared['num_images']:,} images{shown}; 95 % intervals by a paired bootstrap over these "
        "and over the runs of each"
    )
    print(text_table(comparison_rows(compared)))


def _labs(commands) -> None:
    labs = commands.add_parser("labs", help="measure a classifier in each lab: accuracy, known, confidently wrong")
    labs.add_argument("--model", metavar="ID", required=True, help="a classifier, by folder or id on the Hub")
    labs.add_argument(
        "--dataset",
        metavar="NAME",
        action="append",
        required=True,
        help="images of labs, as for train.py's --dataset_name; repeat it for several",
    )
    labs.add_argument(
        "--split",
        metavar="NAME",
        nargs="+",
        help="the splits to measure, of each lab the first that it has; a+b joins two (default: test validation)",
    )
    _add_output(labs)
    labs.set_defaults(run=_run_labs)


def _run_labs(args: argparse.Namespace) -> None:
    import torch

    from hub.evaluation.format import labs_table, text_table
    from hub.evaluation.labs import SPLITS, load_labs, measure
    from hub.inference.predict import load_classifier

    labs = load_labs(args.dataset, args.split or SPLITS)
    model = load_classifier(args.model).to("cuda" if torch.cuda.is_available() else "cpu")
    about = {"model": args.model, "command": f"python -m hub {shlex.join(sys.argv[1:])}"}
    print(text_table(labs_table(measure(model, labs, args.output, about))))
    print(f"all figures are in {args.output / 'results.json'}, each image's prediction in predictions.csv there")


def _mistakes(commands) -> None:
    mistakes = commands.add_parser("mistakes", help="draw the photographs of BCCD that a model misreads")
    mistakes.add_argument("predictions", type=Path, metavar="CSV", help="<split>_predictions.csv of train.py")
    mistakes.add_argument("--bccd", type=Path, metavar="DIR", required=True, help="holds Original_Images")
    mistakes.add_argument("--output", type=Path, metavar="PNG", required=True, help="the contact sheet to write")
    mistakes.set_defaults(run=_run_mistakes)


def _run_mistakes(args: argparse.Namespace) -> None:
    from hub.evaluation.format import text_table
    from hub.study.detection import draw_mistakes

    rows = draw_mistakes(args.predictions, args.bccd, args.output)
    head = ["Photograph", "Label", "Answer", "Files misread", "of"]
    print(text_table([head, *([*names, str(wrong), str(files)] for *names, wrong, files in rows)]))


# --- Studies ---


def _detection(commands) -> None:
    detection = commands.add_parser(
        "detection", aliases=["cells"], help="measure how well white cells are found, and two in a field read"
    )
    detection.add_argument(
        "--bccd", type=Path, metavar="DIR", required=True, help="holds Original_Images, Annotations and labels.csv"
    )
    detection.add_argument("--pbc", type=Path, metavar="DIR", help="holds a folder of single cells for each class")
    detection.add_argument("--model", metavar="ID", help="a classifier to read the photographs of two cells with")
    _add_output(detection)
    detection.set_defaults(run=_run_detection)


def _run_detection(args: argparse.Namespace) -> None:
    from hub.study.detection import describe, measure

    print(describe(measure(args.bccd, args.output, args.pbc, args.model)))
    print(f"look at the pictures in {args.output}: where something else is annotated than found")


def _ood(commands) -> None:
    ood = commands.add_parser(
        "ood", aliases=["foreign"], help="measure how many images that show no white cell are refused"
    )
    ood.add_argument("--model", metavar="ID", required=True, help="a classifier, by folder or id on the Hub")
    ood.add_argument("--dataset_name", metavar="NAME", required=True, help="the smears to keep, as for train.py")
    ood.add_argument("--split", default="test", help="of these (default: test)")
    ood.add_argument(
        "--bccd", type=Path, metavar="DIR", help="holds Original_Images and Annotations; adds red cells alone"
    )
    _add_output(ood)
    ood.set_defaults(run=_run_ood)


def _run_ood(args: argparse.Namespace) -> None:
    from hub.evaluation.format import ood_tables, text_table
    from hub.study.ood import measure

    results = measure(args.model, args.dataset_name, args.output, args.split, args.bccd)
    print("\n\n".join(map(text_table, ood_tables(results))))
    print(f"\nlook at {args.output / 'accepted.png'}: the images with a cell that was not refused")


def _ablations(commands) -> None:
    ablations = commands.add_parser(
        "ablations",
        aliases=["tables"],
        help="train the paper's baselines and what its ideas are worth, as far as missing, and report",
    )
    ablations.add_argument(
        "--output", type=Path, metavar="DIR", required=True, help="folder of the rows and the report"
    )
    ablations.add_argument(
        "--dataset",
        type=Path,
        metavar="DIR",
        default=BUILT,
        help=f"the two labs, by `python -m hub dataset build blood8` (default: {BUILT})",
    )
    ablations.add_argument(
        "--rows", nargs="+", metavar="NAME", help="only these, by name or table; * stands for anything (default: all)"
    )
    ablations.add_argument(
        "--budget",
        nargs=2,
        type=int,
        metavar=("EPOCHS", "PIXELS"),
        help="of all rows alike (default: 10 epochs at the size that each network was made for)",
    )
    ablations.add_argument(
        "--imagenet", action="store_true", help="start the baselines from ImageNet weights, and add rows that do"
    )
    ablations.add_argument("--report", action="store_true", help="train nothing, only report what is there")
    ablations.set_defaults(run=_run_ablations)


def _run_ablations(args: argparse.Namespace) -> None:
    from hub.study.ablations import run

    print(run(args.output, args.dataset, args.rows, args.budget, args.imagenet, args.report))


# --- Docs ---


def _docs(commands) -> None:
    docs = commands.add_parser("docs", help="write the figures of README, docs and model card from the results")
    docs.add_argument("--check", action="store_true", help="change nothing; exit with 1 and name what differs")

    def run(args: argparse.Namespace) -> None:
        from hub.evaluation.format import markdown_table
        from hub.files import UserError
        from hub.publish.docs import update
        from hub.study.ablation_report import report
        from hub.study.detection import detector_rows

        def study(name: str) -> Callable:
            return lambda results: "\n\n".join(f"{caption}\n\n{rows}" for caption, rows in report(results.read(name)))

        def detector(results) -> str:
            measured = results.read("detection")
            return markdown_table(detector_rows({part: measured[part] for part in ("all", "test")}))

        given = {"ablations": study("ablations"), "baselines": study("baselines"), "detector": detector}
        differences = update(check=args.check, given=given)
        print("\n".join(differences or ["README, docs and model card say what the results say"]))
        if differences and args.check:
            raise UserError(f"{len(differences)} passages differ from the results: run `python -m hub docs`")

    docs.set_defaults(run=run)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder to write; new or empty")


if __name__ == "__main__":
    # An exception instead of sudden death, so that what is half written gets removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
