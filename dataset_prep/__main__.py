"""Commands: ``python -m dataset_prep --help``.

Only the standard library is imported before the arguments are understood, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dataset_prep",
        description="Turn raw files into a dataset that run_recbole.py can train on.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    mmrec = commands.add_parser(
        "mmrec",
        help="a folder in MMRec's or MRLib's layout",
        description="Read MMRec's layout (NAME.inter with x_label 0/1/2, *_feat.npy or *_feat.pt, optional id maps) or "
        "MRLib's (inter.csv), check it, and write a dataset that keeps its split.",
        epilog="example: python -m dataset_prep mmrec downloads/baby --name baby",
    )
    mmrec.add_argument("source", metavar="SOURCE", help="the folder, or the interaction file in it")
    _add_output(mmrec)
    mmrec.set_defaults(run=_mmrec)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="what to call the dataset: letters, digits, '.', '_', '-'")
    parser.add_argument("--out", default="dataset", metavar="DIR", help="where to put it (default: dataset)")
    parser.add_argument(
        "--max-bad",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="largest share of faulty lines that are skipped and counted before it is an error (default: 0.01)",
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1")
    return value


def _mmrec(args: argparse.Namespace) -> None:
    from .readers.mmrec import read_mmrec

    prepared = read_mmrec(args.source, args.name, max_bad=args.max_bad)
    _write(prepared, args)


def _write(prepared, args: argparse.Namespace) -> None:
    from .card import summary
    from .tokens import only_path_names
    from .write import write_dataset

    prepared.card["command"] = only_path_names(args.argv)
    folder, card, changed = write_dataset(prepared, args.out)
    print(summary(card))
    print(f"\n{'written to' if changed else 'already there, byte for byte:'} {folder}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line ``argv`` (default: that of the process); 0 when all went well.

    Raises:
        UserError: the input is at fault.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    args.argv = argv
    from recbole_mambarec.errors import UserError

    try:
        args.run(args)
    except OSError as error:
        # no space, no rights, not a folder: the system's own words say it best
        where = f": {error.filename}" if error.filename else ""
        raise UserError(f"{error.strerror or error}{where}") from error
    return 0


if __name__ == "__main__":
    arguments = _parser().parse_args()  # answers --help and refuses wrong arguments before anything is imported
    from recbole_mambarec.errors import run_main

    run_main(main)
