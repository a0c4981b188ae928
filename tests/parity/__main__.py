"""``python -m tests.parity``: :mod:`recbole_mambarec.testing.parity` with the files beside these tests."""

from pathlib import Path

from recbole_mambarec.errors import run_main
from recbole_mambarec.testing.parity.__main__ import main

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*.npz"))

if __name__ == "__main__":
    run_main(lambda: main(files=FIXTURES, prog="python -m tests.parity"))
