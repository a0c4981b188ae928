"""``recbole-mambarec prepare``, also called ``python -m dataset_prep``."""

from __future__ import annotations

import argparse
import sys

from .commands import amazon, check, features, fetch_images, layouts, mask, table

_PROG = "python -m dataset_prep"


def parser(prog: str = _PROG) -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog=prog, description="Turn raw files into a dataset that models can be trained on.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (amazon, layouts, table, features, fetch_images, mask, check):
        module.add(commands)
    return top


def main(argv: list[str] | None = None, prog: str = _PROG) -> int:
    """Run the command line ``argv`` (by default that of the process) and return the exit status.

    Args:
        prog: what the user typed before it.

    Raises:
        UserError: the input is at fault.
        MissingRequirement: a package that the command needs is missing or broken.
    """
    argv = sys.argv[1:] if argv is None else argv
    # --help and wrong arguments are answered before anything else is imported
    args = parser(prog).parse_args(argv)
    from recbole_mambarec_command.requirements import explained
    from recbole_mambarec_common.errors import UserError

    from .tokens import without_folders

    args.command_line = without_folders(argv)
    try:
        return args.run(args)
    except ImportError as error:
        missing = explained(error)
        if missing is None:
            raise
        raise missing from error
    except OSError as error:
        # no space, no rights, not a folder: the system's own words are the best
        where = f": {error.filename}" if error.filename else ""
        # numpy reports a full disk as "n requested and m written", without the system's words
        words = error.strerror or f"not everything could be written or read ({error}): is the disk full?"
        raise UserError(f"{words}{where}") from error


if __name__ == "__main__":
    from recbole_mambarec_command.command import run_script

    run_script("prepare", _PROG)
