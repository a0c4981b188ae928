"""python -m recbole_mambarec.report results/runs.jsonl --out report/"""

from recbole_mambarec_command.command import door

if __name__ == "__main__":
    door("report", "python -m recbole_mambarec.report")
