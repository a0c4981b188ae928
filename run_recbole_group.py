"""Compare models: python run_recbole_group.py --models=BPR,LightGCN,MambaRec --dataset=baby --seeds=5"""

from recbole_mambarec_command.command import door

if __name__ == "__main__":
    door("compare", "run_recbole_group.py")
