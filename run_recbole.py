"""Train and test one model: python run_recbole.py --model=MambaRec --dataset=baby"""

from recbole_mambarec_command.command import door

if __name__ == "__main__":
    door("run", "run_recbole.py")
