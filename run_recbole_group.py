"""Compare models: python run_recbole_group.py --models=BPR,LightGCN,MambaRec --dataset=baby --seeds=5"""

from recbole_mambarec.errors import run_main
from recbole_mambarec.experiments.group import main

if __name__ == "__main__":
    run_main(main)
