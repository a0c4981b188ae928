"""python -m tests.parity FILE...: compare files of golden numbers with our models.

Prints the largest error per group of quantities (``--all``: of every array) and exits with 1 when one is beyond its
tolerance.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

from recbole_mambarec.errors import run_main
from tests.parity.adapters import ADAPTERS
from tests.parity.runner import Result, check


def _group(result: Result) -> str:
    top, _, rest = result.quantity.partition("/")
    return (
        f"{top}/{rest.split('/')[0]}" if top in ("train", "dream") else f"{top}/*" if top == "grad" else result.quantity
    )


def main() -> int:
    """Check the files named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__.splitlines()[0])
    fixtures = sorted((Path(__file__).parent / "fixtures").glob("*.npz"))
    parser.add_argument(
        "files", nargs="*", metavar="FILE", default=fixtures, help="default: the files beside the tests"
    )
    parser.add_argument("--all", action="store_true", help="a line per array instead of per group")
    options = parser.parse_args()
    failed = 0
    for file in options.files:
        results = check(file, ADAPTERS)
        failed += sum(not result.ok for result in results)
        print(f"{file}: {len(results)} arrays, {sum(not r.ok for r in results)} beyond tolerance")
        key = (lambda r: r.quantity) if options.all else _group
        for name, group in groupby(sorted(results, key=key), key=key):
            worst = max(group, key=lambda r: r.error / r.allowed if r.allowed else (r.error > 0) * 1e9 or r.error)
            print(
                f"  {'ok  ' if worst.ok else 'FAIL'} {name:42} error {worst.error:9.2e}  allowed {worst.allowed:9.2e}"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
