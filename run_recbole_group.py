"""Compare models: python run_recbole_group.py --models=BPR,LightGCN,MambaRec --dataset=baby --seeds=5"""

from recbole_mambarec_command.command import run_script

if __name__ == "__main__":
    run_script("compare", "run_recbole_group.py")
