"""Runs all benchmarks, or some, and writes what they found into docs/benchmarks.md.

    make bench                                        all of them
    python -m tests.benchmarks --only training        some of them: printed, the page stays
    python -m tests.benchmarks --quick                one round of small sizes, to try the code out

A benchmark is a module of this folder with `figures(quick)`, which yields one `Figure` after the
other. Each runs in a process of its own, in the order of BENCHMARKS.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.apart import BenchmarkError, measured
from tests.benchmarks.harness import Figure
from tests.benchmarks.machine import described
from tests.benchmarks.page import line, replaced, tables

BENCHMARKS = (
    "training",
    "step",
    "inputs",
    "formats",
    "kernels",
    "study",
    "library",
    "startup",
    "memory",
    "preparation",
    "supervisor",
    "reporting",
)
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments name; return 0, or 1 if a benchmark failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    names = [name for name in BENCHMARKS if name in (options.only or BENCHMARKS)]
    whole = not options.only and not options.quick
    return run(names, options.quick, PAGE if whole else None)


def run(names: Sequence[str], quick: bool, page: Path | None) -> int:
    """Run benchmarks in this order, print each figure as it comes, then write the page, if any.

    One that fails does not keep the others from running, but the page stays as it is.
    """
    text = page.read_text(encoding="utf-8") if page else ""
    machine, started = described(), time.perf_counter()
    found: dict[str, list[Figure]] = {}
    failed = False
    for name in names:
        print(f"== {name}", flush=True)
        found[name] = []
        try:
            for figure in measured(name, quick):
                found[name].append(figure)
                print(line(figure), flush=True)
        except BenchmarkError as error:
            print(error, file=sys.stderr)
            failed = True
        machine["took"] = f"{(time.perf_counter() - started) / 60:.1f} min"
        print(f"== {name}: {machine['took']} in all", flush=True)
    if page and not failed:
        page.write_text(replaced(text, tables(machine, found)), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
