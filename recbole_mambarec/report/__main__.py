"""python -m recbole_mambarec.report results/runs.jsonl --out report/"""

from recbole_mambarec.errors import run_main
from recbole_mambarec.report.cli import main

if __name__ == "__main__":
    run_main(main)
