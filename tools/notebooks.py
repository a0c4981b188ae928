"""Executes the notebooks in examples/ and keeps their outputs: ``python -m tools.notebooks [FILE ...]``.

A notebook is executed in a folder of its own. A cell may hold Python, whose text and last value are kept, and lines
that begin with ``!`` for this package's command. The first cell, which installs the package in Colab, changes nothing
here.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import multiprocessing
import os
import runpy
import shlex
import subprocess
import sys
import tempfile
import types
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
#: longest text that a cell may write, so that the files stay small
LONGEST = 4000


class CellError(Exception):
    """A cell has failed; the message says which."""


def notebooks() -> list[Path]:
    """All notebooks, in the order of their names."""
    return sorted(EXAMPLES.glob("*.ipynb"))


def execute(notebook: dict) -> dict:
    """The notebook with the outputs that its cells give in the working folder; the process is used up by that.

    Raises:
        CellError: a cell fails, or writes more than fits into an example.
    """
    # what a cell defines belongs to __main__, as in Jupyter
    module = types.ModuleType("__main__")
    module.__dict__["_command"] = command
    sys.modules["__main__"] = module
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            try:
                written, value = _run("".join(cell["source"]), module.__dict__)
            except (Exception, SystemExit) as error:
                raise CellError(f"cell {count}: {type(error).__name__}: {error}") from error
            if len(written) + len(value or "") > LONGEST:
                raise CellError(f"cell {count} writes {len(written)} characters: show less")
            cell = {**cell, "execution_count": count, "outputs": _outputs(written, value, count)}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _run(source: str, namespace: dict) -> tuple[str, str | None]:
    """What a cell writes, and the representation of its last expression."""
    lines = [f"_command({line[1:].strip()!r})" if line.startswith("!") else line for line in source.splitlines()]
    body = ast.parse("\n".join(lines)).body
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        last = body[-1] if body else None
        if isinstance(last, ast.Expr):
            body.pop()
        exec(compile(ast.Module(body, []), "<cell>", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace)
    return stream.getvalue(), None if value is None else repr(value)


def command(line: str) -> None:
    """Run ``recbole-mambarec ...`` in a process of its own and print what it prints to standard output.

    Raises:
        RuntimeError: it fails.
    """
    name, *arguments = shlex.split(line)
    if name != "recbole-mambarec":
        raise ValueError(f"'{name}' is not the command of this package")
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        # from a process that has imported the package already, where that is safe
        fork = sys.platform == "linux"
        context = multiprocessing.get_context("fork") if fork else multiprocessing.get_context("spawn")
        process = context.Process(target=_call, args=(arguments, str(out), str(err)))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{line}: {err.read_text(encoding='utf-8')[-2000:]}")
        print(out.read_text(encoding="utf-8"), end="")


def _call(arguments: list[str], out: str, err: str) -> None:
    for number, file in ((1, out), (2, err)):
        with open(file, "wb") as stream:
            os.dup2(stream.fileno(), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    sys.argv = ["recbole-mambarec", *arguments]
    try:
        runpy.run_module("recbole_mambarec", run_name="__main__", alter_sys=False)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _outputs(written: str, value: str | None, count: int) -> list[dict]:
    found: list[dict] = []
    if written:
        found.append({"name": "stdout", "output_type": "stream", "text": written.splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": value.splitlines(keepends=True)}
        found.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    return found


def keep(path: Path) -> None:
    """Execute a notebook and write it back with its outputs."""
    made = json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        made = execute(made)
        os.chdir(EXAMPLES)
    path.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path.name)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        keep(Path(sys.argv.pop()).resolve())  # RecBole would read the argument as configuration
    else:
        # a process for each: a notebook changes the one that executes it
        for each in sys.argv[1:] or map(str, notebooks()):
            subprocess.run([sys.executable, "-m", "tools.notebooks", each], check=True)
