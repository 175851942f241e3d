"""Measure all tables of docs/performance.md: `python -m tests.benchmarks`, or some of them by name.

Each is printed and written to `results/benchmarks/<name>.json` with the machine that it was measured on; the tables in
docs/performance.md are rendered from there. `--small` measures little, to see that all of it runs, and writes nothing.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from hub.publish.docs import update
from hub.study.docs_tables import BENCHMARKS, tables
from tests.benchmarks.tables import measure, print_rows, write


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--small", action="store_true", help="measure little, and write nothing")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]}, but {', '.join(BENCHMARKS)}")
    for name in args.names or BENCHMARKS:
        title = BENCHMARKS[name]
        print(f"\n{title}", flush=True)
        # A process of its own: one benchmark's threads and memory are not the next one's.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            rows = pool.submit(measure, name, args.small).result()
        print_rows(rows)
        if not args.small:
            write(name, title, f"python -m tests.benchmarks {name}", rows)
    if not args.small:
        update(given=tables())


if __name__ == "__main__":
    main()
