"""The notebooks in examples/ run from top to bottom, and what they show was kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import warm

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "examples").is_dir():
    pytest.skip("the notebooks are part of the repository only", allow_module_level=True)

from tools import notebooks  # noqa: E402

EXECUTE = """
import json, sys
from pathlib import Path
from tools import notebooks
made = notebooks.execute(json.loads(Path(sys.argv.pop()).read_text(encoding="utf-8")))
Path("executed.json").write_text(json.dumps(made), encoding="utf-8")
"""

#: modules that single notebooks need, with their extras
NEEDS = {"serve": (("fastapi", "serve"), ("uvicorn", "serve"), ("safetensors", "serve"))}


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def execute(path: Path, folder: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return warm.python("-c", EXECUTE, str(path), cwd=folder, env=environment)


@pytest.mark.parametrize("path", notebooks.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_is_kept(path, tmp_path):
    for module, extra in (("polars", "compare"), ("PIL", "features"), *NEEDS.get(path.stem, ())):
        pytest.importorskip(module, reason=f"the extra [{extra}] is not installed", exc_type=ImportError)
    kept = json.loads(path.read_text(encoding="utf-8"))
    done = execute(path, tmp_path)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    made = json.loads((tmp_path / "executed.json").read_text(encoding="utf-8"))
    for now, before in zip(code_cells(made), code_cells(kept), strict=True):
        assert [output["output_type"] for output in now["outputs"]] == [
            output["output_type"] for output in before["outputs"]
        ], f"run python -m tools.notebooks; the cell is {''.join(now['source'])}"
    assert any(cell["outputs"] for cell in code_cells(kept))
    first = "".join(code_cells(kept)[0]["source"])
    assert "tools/install.py" in first and "--here" in first and "find_spec" in first


def test_a_cell_that_fails_is_named(tmp_path):
    cells = [{"cell_type": "code", "source": ["x = 1"]}, {"cell_type": "code", "source": ["x\n", "undefined"]}]
    path = tmp_path / "broken.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    done = execute(path, tmp_path)
    assert done.returncode == 1 and "CellError: cell 2: NameError" in done.stderr


def test_a_command_that_fails_is_an_error(tmp_path):
    path = tmp_path / "broken.ipynb"
    cell = {"cell_type": "code", "source": ["!recbole-mambarec run --model=Nothing"]}
    path.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
    done = execute(path, tmp_path)
    assert done.returncode == 1 and "CellError: cell 1: RuntimeError" in done.stderr and "Nothing" in done.stderr
