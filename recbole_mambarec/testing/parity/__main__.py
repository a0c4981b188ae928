"""python -m recbole_mambarec.testing.parity FILE...: compare files of golden numbers with our models.

Prints the largest error per group of quantities (``--all``: of every array). Files of models without an adapter are
listed and left out. Exits with 1 when an array is beyond its tolerance, with 2 when nothing could be compared.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch

from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.testing.parity.adapter import NoAdapter, adapter_of
from recbole_mambarec.testing.parity.runner import Result, check, model_of, reference_of


def _group(result: Result) -> str:
    """The quantity, for gradients and buffers the folder that they are in."""
    name = re.sub(r"^((?:[^/]+/)?grad|params_without_grad)/.*", r"\1/*", result.quantity)
    top, _, rest = name.partition("/")
    return f"{top}/{rest.split('/')[0]}" if top in ("train", "dream") else name


def _options(arguments: Sequence[str] | None, files: Sequence[Path], prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description="Compare files of golden numbers with our models.")
    parser.add_argument(
        "files",
        nargs="*" if files else "+",
        metavar="FILE",
        default=files,
        help="golden numbers (.npz)" + (" (default: those beside the tests)" if files else ""),
    )
    parser.add_argument("--all", action="store_true", help="a line per array instead of per group")
    parser.add_argument(
        "--models",
        metavar="NAME,...",
        help="compare the files of these models only; each must have an adapter and a file",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the largest error of each file there")
    return parser.parse_args(arguments)


def main(
    arguments: Sequence[str] | None = None,
    files: Sequence[Path] = (),
    prog: str = "python -m recbole_mambarec.testing.parity",
) -> int:
    """Check the files named on the command line, or ``files`` where it names none.

    Raises:
        UserError: a file cannot be read or does not fit its adapter, or nothing is left to compare.
    """
    options = _options(arguments, files, prog)
    models = {file: model_of(file) for file in options.files}
    if options.models is not None:
        wanted = [name.strip() for name in options.models.split(",") if name.strip()]
        for name in wanted:
            if name not in models.values():
                there = ", ".join(sorted(set(models.values())))
                raise UserError(f"none of the {len(models)} files is about {name}: there are {there}")
            adapter_of(name)
        models = {file: model for file, model in models.items() if model in wanted}

    shares: dict[str, float] = {}
    summary: dict[str, dict] = {}
    beyond, arrays, left_out = 0, 0, {}
    for file, model in models.items():
        try:
            results = check(file)
        except NoAdapter as error:
            left_out[file] = str(error)
            continue
        failed = [result for result in results if not result.ok]
        arrays, beyond = arrays + len(results), beyond + len(failed)
        largest = max(result.share for result in results)
        shares[model] = max(shares.get(model, 0.0), largest)
        summary[Path(file).stem] = {
            "model": model,
            "reference": reference_of(file),
            "arrays": len(results),
            "largest_error": float(f"{largest:.3g}"),
        }
        print(f"{file}: {len(results)} arrays, {len(failed)} beyond tolerance")
        key = (lambda r: r.quantity) if options.all else _group
        for name, group in groupby(sorted(results, key=key), key=key):
            worst = max(group, key=lambda r: r.share)
            print(
                f"  {'ok  ' if worst.ok else 'FAIL'} {name:42} error {worst.error:9.2e}  allowed {worst.allowed:9.2e}"
                f"  {worst.reason}".rstrip()
            )
    for file, reason in left_out.items():
        print(f"{file}: not compared, {reason}")
    if not shares:
        raise UserError("nothing was compared: none of the files is about a model that has an adapter")

    if options.json is not None:
        record = {"torch": torch.__version__, "files": summary}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("largest error as a share of the tolerance: " + ", ".join(f"{m} {s:.3f}" for m, s in sorted(shares.items())))
    print(
        f"{len(models) - len(left_out)} files of {len(shares)} models: {arrays} arrays, {beyond} beyond tolerance; "
        f"{len(left_out)} files of models without an adapter"
    )
    return 1 if beyond else 0


if __name__ == "__main__":
    run_main(main)
