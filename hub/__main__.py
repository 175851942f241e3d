"""The command line: `python -m hub COMMAND ...`. Each command is a function of its room that Python can call too."""

from __future__ import annotations

import argparse
import logging
import signal
import sys

from hub.commands.publishing import add_dataset, add_model, add_space
from hub.commands.reading import add_adapt, add_compare, add_labs, add_mistakes, add_predict
from hub.commands.studying import add_ablations, add_detection, add_docs, add_ood, add_teacher
from hub.files import UserError, one_line
from hub.former_names import present_names

COMMANDS = (
    *(add_dataset, add_model, add_space, add_predict, add_adapt, add_compare, add_labs, add_mistakes),
    *(add_teacher, add_detection, add_ood, add_ablations, add_docs),
)


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments. Default: those of the process.

    Returns:
        The exit status: 0, or 1 after a user's or an operating system's error, printed as one line.

    Raises:
        SystemExit: The arguments are wrong (status 2), or ask for help (0).
    """
    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m hub", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    args = parser.parse_args(present_names(sys.argv[1:] if argv is None else argv))
    try:
        args.run(args)
    except (UserError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that it cannot encode
    # An exception instead of sudden death, so that incomplete output is removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
