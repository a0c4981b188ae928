"""``features``: one modality of a prepared dataset."""

from __future__ import annotations

import argparse

from ..options import Options
from .arguments import IMAGE_FEATURES, TEXT_ENCODER, add_command, add_encoders, add_max_bad, count

_SOURCE = (
    *("array", "ids", "first_id", "text_encoder", "text_width", "image_features", "images", "image_encoder"),
    *("image_weights", "seed", "batch", "max_bad"),
)


def add(commands) -> None:
    command = add_command(
        commands,
        "features",
        "add, replace or remove one modality of a prepared dataset",
        "Take one modality of a prepared dataset from one source of features, or --remove it. Items that the source "
        "does not have get a row of NaN.",
        "features dataset/baby --modality text --text-encoder sentence-transformers:all-MiniLM-L6-v2",
        run,
    )
    command.add_argument("dataset", metavar="DATASET", help="the folder of the dataset, such as dataset/baby")
    command.add_argument("--modality", required=True, metavar="NAME", help="such as text, image, audio")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--array",
        metavar="FILE|DIR",
        help=".npy, .npz or .pt; row k belongs to item k of the dataset. Or a folder with one <item id>.npy per item, "
        "as Ducho writes it",
    )
    source.add_argument("--text-encoder", metavar="NAME", help=TEXT_ENCODER)
    source.add_argument("--image-features", metavar="FILE|DIR", help=IMAGE_FEATURES)
    source.add_argument("--images", metavar="DIR", help="images named by item id")
    source.add_argument("--remove", action="store_true", help="remove the modality")
    rows = command.add_mutually_exclusive_group()
    rows.add_argument(
        "--ids", metavar="FILE", help="with --array: line k names the item of row k (or a .item file, in its order)"
    )
    rows.add_argument(
        "--first-id", type=count, metavar="N", help="with --array: row 0 belongs to item N, row 1 to item N + 1, ..."
    )
    add_encoders(command)
    command.add_argument(
        "--seed", type=int, default=Options.seed, help="of TF-IDF's decomposition (default: %(default)s)"
    )
    add_max_bad(command)


def run(args: argparse.Namespace) -> int:
    from ..card import summary
    from ..features import remove_modality, set_modality

    if args.remove:
        card = remove_modality(args.dataset, args.modality)
    else:
        source = {name: getattr(args, name) for name in _SOURCE}
        card = set_modality(args.dataset, args.modality, **source, command=args.command_line)
    print(summary(card))
    print(f"\nwritten to {args.dataset}")
    return 0
