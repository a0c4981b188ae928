"""Makes ``python benchmarks/name.py`` equivalent to ``python -m benchmarks.name``, in its child processes, too."""

import os
import runpy
import sys
from pathlib import Path


def run() -> None:
    """Run the benchmark that was started by its path again, as a module, and exit.

    The folder of all benchmarks, which holds names such as ``memory`` and ``models``, leaves ``sys.path``.
    """
    root = str(Path(__file__).resolve().parents[1])
    sys.path[0] = root
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    runpy.run_module(f"benchmarks.{Path(sys.argv[0]).stem}", run_name="__main__", alter_sys=True)
    sys.exit()
