"""The command line: `python -m hub COMMAND ...`."""

import argparse
import importlib
import logging
import signal
import sys
from pathlib import Path

# What the repositories are called, and where what they hold lies, unless told otherwise.
MODEL_NAME = "wbc-ibn-resnet34"
DATASET_NAME = "bccd-wbc"
CHECKPOINT = Path("hub/checkpoint")
BUILT = Path("data/blood8")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status, 0 or, after an error of the user's, 1."""
    # Imported here so that Ctrl-C during the seconds that this takes is caught below as well.
    from hub.dataset import DatasetError

    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m hub", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_dataset(commands)
    _add_model(commands)
    _add_space(commands)
    _add_predict(commands)
    _add_cells(commands)
    _add_compare(commands)
    _add_foreign(commands)
    _add_mistakes(commands)
    _add_tables(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _later(module: str):
    """`module.run`, imported when it is called: that takes seconds, and the other commands do without."""
    return lambda args: importlib.import_module(module).run(args)


def _add_id(parser: argparse.ArgumentParser, kind: str, name: str, what: str) -> None:
    parser.add_argument(f"--{kind}-id", metavar="NAME/NAME", help=f"{what} (default: {name} of the same owner)")


def _id(args: argparse.Namespace, kind: str, name: str) -> str:
    from hub.repository import check_repo_id

    owner, _ = args.repo_id.split("/")
    return check_repo_id(getattr(args, f"{kind}_id") or f"{owner}/{name}")


def _add_dataset(commands) -> None:
    from hub import dataset, repository

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--dataset",
            type=Path,
            metavar="DIR",
            default=BUILT,
            help=f"what `python -m hub dataset build` wrote (default: {BUILT})",
        )

    def stage(args: argparse.Namespace, folder: Path) -> None:
        from hub.dataset_card import stage

        stage(args.dataset, folder, args.repo_id)

    actions = dataset.add_commands(commands)
    repository.add_commands(actions, "dataset", stage, add_arguments)


def _add_model(commands) -> None:
    from hub import repository

    group = commands.add_parser("model", help="make a trained classifier ready to publish, and publish it")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    export = actions.add_parser("export", help="float16 weights, configuration, image processor and code")
    export.add_argument("source", metavar="ID", help="a classifier, by folder or id on the Hub")
    export.add_argument(
        "--output", type=Path, metavar="DIR", required=True, help="folder to write, over what is there"
    )
    report = actions.add_parser("report", help="results.json, plots and card of an exported classifier")
    report.add_argument("folder", type=Path, metavar="FOLDER", help="the exported classifier's")
    for name, of in (("evaluation", "train.py --do_eval"), ("foreign", "python -m hub foreign")):
        report.add_argument(f"--{name}", type=Path, metavar="DIR", required=True, help=f"output folder of {of}")
    report.add_argument(
        "--training", type=Path, metavar="DIR", nargs="+", required=True, help="output folders of train.py, in order"
    )

    def run_export(args: argparse.Namespace) -> None:
        from hub.model import export

        export(args.source, args.output)

    def run_report(args: argparse.Namespace) -> None:
        from hub.model import report

        report(args.folder, args.evaluation, args.foreign, args.training)

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
        from hub.model import stage

        stage(args.checkpoint, folder, args.repo_id, _id(args, "dataset", DATASET_NAME))

    export.set_defaults(run=run_export)
    report.set_defaults(run=run_report)
    repository.add_commands(actions, "model", stage, add_arguments)


def _add_space(commands) -> None:
    from hub import repository

    group = commands.add_parser("space", help="publish the demo")
    actions = group.add_subparsers(metavar="ACTION", required=True)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        _add_id(parser, "model", MODEL_NAME, "the model that it shows")
        _add_id(parser, "dataset", DATASET_NAME, "the dataset that its examples are from")

    def stage(args: argparse.Namespace, folder: Path) -> None:
        from hub.space import stage

        stage(folder, args.repo_id, _id(args, "model", MODEL_NAME), _id(args, "dataset", DATASET_NAME))

    repository.add_commands(actions, "space", stage, add_arguments)


def _add_predict(commands) -> None:
    predict = commands.add_parser("predict", help="find and classify the white cells of images")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="files, or folders of images")
    predict.add_argument("--model", metavar="ID", required=True, help="a classifier, by folder or id on the Hub")
    predict.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder to write; new or empty")
    predict.add_argument("--draw", action="store_true", help="also write each image with its cells drawn in")

    predict.set_defaults(run=_later("hub.predict"))


def _add_cells(commands) -> None:
    cells = commands.add_parser("cells", help="measure how well white cells are found, and two in a field read")
    cells.add_argument(
        "--bccd", type=Path, metavar="DIR", required=True, help="holds Original_Images, Annotations and labels.csv"
    )
    cells.add_argument("--pbc", type=Path, metavar="DIR", help="holds a folder of single cells for each class of PBC")
    cells.add_argument("--model", metavar="ID", help="a classifier to read the photographs of two cells with")
    cells.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder to write; new or empty")

    cells.set_defaults(run=_later("hub.cells"))


def _add_compare(commands) -> None:
    compare = commands.add_parser("compare", help="compare the runs of two recipes on the same images")
    for name in ("first", "second"):
        compare.add_argument(
            f"--{name}", type=Path, metavar="DIR", nargs="+", required=True, help="output folders, one for each seed"
        )
    compare.add_argument("--split", default="validation", help="whose predictions to compare (default: validation)")

    def run(args: argparse.Namespace) -> None:
        from hub.dataset import DatasetError
        from hub.evaluation import compare, comparison_rows
        from hub.metrics import text_table

        try:
            compared = compare(args.first, args.second, args.split)
        except ValueError as error:
            raise DatasetError(str(error)) from error
        shown = f", {compared['num_photographs']} photographs" if compared["num_photographs"] else ""
        print(
            f"{args.split}: {compared['num_images']:,} images{shown}; 95 % intervals by a paired bootstrap over these "
            "and over the runs of each"
        )
        print(text_table(comparison_rows(compared)))

    compare.set_defaults(run=run)


def _add_foreign(commands) -> None:
    foreign = commands.add_parser("foreign", help="measure how many images that show no white cell are refused")
    foreign.add_argument("--model", metavar="ID", required=True, help="a classifier, by folder or id on the Hub")
    foreign.add_argument("--dataset_name", metavar="NAME", required=True, help="the smears to keep, as for train.py")
    foreign.add_argument("--split", default="test", help="of these (default: test)")
    foreign.add_argument(
        "--bccd", type=Path, metavar="DIR", help="holds Original_Images and Annotations; adds red cells alone"
    )
    foreign.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder to write; new or empty")

    foreign.set_defaults(run=_later("hub.foreign"))


def _add_mistakes(commands) -> None:
    mistakes = commands.add_parser("mistakes", help="draw the photographs of BCCD that a model misreads")
    mistakes.add_argument("predictions", type=Path, metavar="CSV", help="<split>_predictions.csv of train.py")
    mistakes.add_argument("--bccd", type=Path, metavar="DIR", required=True, help="holds Original_Images")
    mistakes.add_argument("--output", type=Path, metavar="PNG", required=True, help="the contact sheet to write")

    def run(args: argparse.Namespace) -> None:
        from hub.cells import mistakes_sheet
        from hub.dataset import DatasetError
        from hub.evaluation import mistaken_photographs
        from hub.metrics import text_table

        try:
            rows = mistaken_photographs(args.predictions)
        except ValueError as error:
            raise DatasetError(str(error)) from error
        args.output.parent.mkdir(parents=True, exist_ok=True)
        mistakes_sheet(rows, args.bccd / "Original_Images").save(args.output)
        head = ["Photograph", "Label", "Answer", "Files misread", "of"]
        print(text_table([head, *([*names, str(wrong), str(files)] for *names, wrong, files in rows)]))

    mistakes.set_defaults(run=run)


def _add_tables(commands) -> None:
    tables = commands.add_parser(
        "tables", help="train the paper's rivals and what its ideas are worth, as far as missing, and report"
    )
    tables.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder of the rows and the report")
    tables.add_argument(
        "--dataset",
        type=Path,
        metavar="DIR",
        default=BUILT,
        help=f"the two labs, by `python -m hub dataset build blood8` (default: {BUILT})",
    )
    tables.add_argument(
        "--rows", nargs="+", metavar="NAME", help="only these, by name or table; * stands for anything (default: all)"
    )
    tables.add_argument(
        "--budget",
        nargs=2,
        type=int,
        metavar=("EPOCHS", "PIXELS"),
        help="of all rows alike (default: 10 epochs at the size that each network was made for)",
    )
    tables.add_argument(
        "--imagenet", action="store_true", help="start the rivals from ImageNet weights, and add rows that do"
    )
    tables.add_argument("--report", action="store_true", help="train nothing, only report what is there")
    tables.set_defaults(run=_later("hub.tables"))


if __name__ == "__main__":
    # An exception instead of sudden death, so that what is half written gets removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
