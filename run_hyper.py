"""Search for hyper-parameters: python run_hyper.py --model=MambaRec --dataset=baby"""

from recbole_mambarec.errors import run_main
from recbole_mambarec.experiments.hyper import main

if __name__ == "__main__":
    run_main(main)
