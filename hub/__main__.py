"""The command line: `python -m hub COMMAND ...`."""

import argparse
import logging
import signal
import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status, 0 or, after an error of the user's, 1."""
    # Imported here so that Ctrl-C during the seconds that this takes is caught below as well.
    from hub import dataset

    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser(prog="python -m hub", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    dataset.add_commands(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (dataset.DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # An exception instead of sudden death, so that what is half written gets removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
