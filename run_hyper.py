"""Search for hyper-parameters: python run_hyper.py --model=MambaRec --dataset=baby"""

from recbole_mambarec_command.command import door

if __name__ == "__main__":
    door("tune", "run_hyper.py")
