"""Former names of commands and flags of the command line."""

import sys

# Former names, which still work: the first arguments, the former word, the present one.
RENAMED = (
    (("cells",), "cells", "detection"),
    (("foreign",), "foreign", "ood"),
    (("tables",), "tables", "ablations"),
    (("dataset", "review"), "review", "audit"),
    (("model", "report"), "--foreign", "--ood"),
)


def present_names(argv: list[str]) -> list[str]:
    """Replace former names of commands and flags, with a line on stderr for each."""
    for start, former, present in RENAMED:
        if tuple(argv[: len(start)]) == start:
            for index, argument in enumerate(argv):
                name, equals, value = argument.partition("=")
                if name == former and (former.startswith("--") or index == len(start) - 1):
                    print(f"{former} is now called {present}; the former name will be removed", file=sys.stderr)
                    argv = [*argv[:index], present + equals + value, *argv[index + 1 :]]
    return argv
