"""``mask``: which items are to lack which modalities."""

from __future__ import annotations

import argparse

from .arguments import add_command, names, seed, share


def add(commands) -> None:
    command = add_command(
        commands,
        "mask",
        "draw which items of a prepared dataset lack which modalities",
        "Draw a mask within groups of equally popular items, and write it as CSV (item_id, modality) for the key "
        "missing_modalities. The arrays stay as they are. The same options give the same mask, and masks of one seed "
        "are nested: what an item lacks at a rate, it lacks at every higher one.",
        "mask dataset/baby --rate 0.4",
        run,
    )
    command.add_argument("dataset", metavar="DATASET", help="the folder of the dataset, such as dataset/baby")
    command.add_argument("--rate", type=share, required=True, help="share of the items that lack something")
    command.add_argument(
        "--kinds",
        type=names,
        metavar="A,B,A+B",
        help="what an item can lack: modalities, several joined by +, or all (default: every combination)",
    )
    command.add_argument("--seed", type=seed, help="of the draw (default: 999)")
    command.add_argument(
        "--out",
        metavar="FILE",
        help="default: NAME.missing-RATE.csv in the folder of the dataset, with kinds and seed if they are given",
    )


def run(args: argparse.Namespace) -> int:
    from recbole_mambarec_common.masks import DEFAULT_SEED, Rule

    from ..mask import draw_mask

    rule = Rule(args.rate, args.kinds, DEFAULT_SEED if args.seed is None else args.seed)
    path, text = draw_mask(args.dataset, rule, args.out)
    print(f"{text}\n\nwritten to {path}; use it with --missing_modalities={path}")
    return 0
