"""python -m recbole_mambarec.report results/runs.jsonl --out report/"""

from recbole_mambarec_command.command import run_script

if __name__ == "__main__":
    run_script("report", "python -m recbole_mambarec.report")
