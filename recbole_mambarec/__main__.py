"""python -m recbole_mambarec: the same as the command recbole-mambarec, where that is not on the PATH."""

from recbole_mambarec_command.command import main

if __name__ == "__main__":
    main()
