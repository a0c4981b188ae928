"""python -m recbole_mambarec: the same as run_recbole.py, where the package is installed without it."""

from recbole_mambarec.cli import run_recbole
from recbole_mambarec.errors import run_main

if __name__ == "__main__":
    run_main(run_recbole)
