"""Search for hyper-parameters: python run_hyper.py --model=MambaRec --dataset=baby"""

from recbole_mambarec_command.command import run_script

if __name__ == "__main__":
    run_script("tune", "run_hyper.py")
