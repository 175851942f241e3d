"""Commands that read images with a classifier, and measure how well."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from hub.commands.options import add_command, add_folder, add_output

# Each command imports its room when it runs: torch and transformers take seconds, and --help does without.


def add_predict(commands) -> None:
    """Add `python -m hub predict`."""
    predict = add_command(commands, "predict", "find and classify the white cells of images", _run_predict)
    predict.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="files, ZIP archives, or folders")
    predict.add_argument("--dataset", metavar="NAME", help="in their place a data set, by folder or id on the Hub")
    predict.add_argument("--split", metavar="NAME", default="test", help="of the data set (default: test)")
    predict.add_argument("--streaming", action="store_true", help="fetch its rows while they are read")
    add_output(predict, classifier=True)
    help = "what computes the network: torch, bfloat16, onnx or onnx-int8 (default: torch)"
    predict.add_argument("--backend", choices=("torch", "bfloat16", "onnx", "onnx-int8"), default="torch", help=help)
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
    found = predict(images, args.model, args.output, args.draw, args.workers, args.batch_size, args.backend)
    if found is not None:  # the first of several processes
        print(describe(found))
        print(f"each cell's box and probabilities are in {readable_name(args.output / 'cells.csv')}")


def add_adapt(commands) -> None:
    """Add `python -m hub adapt`."""
    adapt = add_command(commands, "adapt", "adapt a copy of a classifier to a lab by images of its own", _run_adapt)
    adapt.add_argument("folder", type=Path, metavar="FOLDER", help="images of the lab")
    help = "types of the foremost cells of some images: columns file (path in FOLDER) and label"
    adapt.add_argument("--labels", type=Path, metavar="CSV", help=help)
    help = "the norms' statistics (default: move where the lab's shift is above the model's max_shift)"
    adapt.add_argument("--norms", choices=("move", "keep"), help=help)
    add_output(adapt, classifier=True)


def _run_adapt(args: argparse.Namespace) -> None:
    from hub.inference.adapt import adapt, describe

    move_norms = None if args.norms is None else args.norms == "move"
    print(describe(adapt(args.folder, args.model, args.output, args.labels, move_norms)))
    print(f"the adapted copy is in {args.output}, for --model of other commands")


def add_compare(commands) -> None:
    """Add `python -m hub compare`."""
    compare = add_command(commands, "compare", "compare the runs of two recipes on the same images", _run_compare)
    for name in ("first", "second"):
        add_folder(compare, f"--{name}", "output folders, one for each seed", nargs="+", required=True)
    compare.add_argument("--split", default="validation", help="whose predictions to compare (default: validation)")


def _run_compare(args: argparse.Namespace) -> None:
    from hub.evaluation.compare import compare, describe

    print(describe(compare(args.first, args.second, args.split), args.split))


def add_labs(commands) -> None:
    """Add `python -m hub labs`."""
    labs = add_command(
        commands, "labs", "measure a classifier in each lab, on the cells that it finds itself", _run_labs
    )
    help = "labs to measure, as for train.py's --dataset_name; repeat it for several"
    labs.add_argument("--dataset", metavar="NAME", action="append", required=True, help=help)
    help = "the splits to measure, of each lab the first that it has; a+b joins two (default: test validation)"
    labs.add_argument("--split", metavar="NAME", nargs="+", default=["test", "validation"], help=help)
    help = "also measure images as worse cameras and lamps give them, at four severities"
    labs.add_argument("--corruptions", action="store_true", help=help)
    help = "also measure what adapting to each lab brings, with 0 to 20 labelled cells a type"
    labs.add_argument("--adapt", action="store_true", help=help)
    add_output(labs, classifier=True)


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


def add_mistakes(commands) -> None:
    """Add `python -m hub mistakes`."""
    mistakes = add_command(commands, "mistakes", "draw the photographs of BCCD that a model misreads", _run_mistakes)
    mistakes.add_argument("predictions", type=Path, metavar="CSV", help="<split>_predictions.csv of train.py")
    add_folder(mistakes, "--bccd", "holds Original_Images", required=True)
    mistakes.add_argument("--output", type=Path, metavar="PNG", required=True, help="the contact sheet to write")


def _run_mistakes(args: argparse.Namespace) -> None:
    from hub.study.detection import describe_mistakes, draw_mistakes

    print(describe_mistakes(draw_mistakes(args.predictions, args.bccd, args.output)))
