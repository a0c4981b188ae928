"""``check``: is a prepared dataset sound?"""

from __future__ import annotations

import argparse

from .arguments import add_command, add_plot, draw_plot


def add(commands) -> None:
    command = add_command(
        commands,
        "check",
        "validate a prepared dataset and print its card",
        "Compare a prepared dataset with its card: files, hashes, ids, arrays, interactions. The exit status is 1 if "
        "something is wrong.",
        "check dataset/baby",
        run,
    )
    command.add_argument("dataset", metavar="DATASET", help="the folder of the dataset")
    add_plot(command)


def run(args: argparse.Namespace) -> int:
    from ..card import summary
    from ..check import check_dataset

    card, problems = check_dataset(args.dataset)
    if problems:
        print("\n".join(f"problem: {problem}" for problem in problems))
        return 1
    print(summary(card))
    print(f"\nsound: {args.dataset}")
    draw_plot(args, args.dataset)
    return 0
