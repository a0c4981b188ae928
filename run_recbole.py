"""Train and test one model: python run_recbole.py --model=MambaRec --dataset=baby"""

from recbole_mambarec_command.command import run_script

if __name__ == "__main__":
    run_script("run", "run_recbole.py")
