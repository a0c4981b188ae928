"""Train and test one model: python run_recbole.py --model=MambaRec --dataset=baby"""

from recbole_mambarec.cli import run_recbole
from recbole_mambarec.errors import run_main

if __name__ == "__main__":
    run_main(run_recbole)
