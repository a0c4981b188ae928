"""What several commands share: groups of options, types of their values, and how a result is shown."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import MAX_BAD, SPLIT_METHODS, Options

if TYPE_CHECKING:
    from ..write import Written

AMAZON_VERSIONS = ("2014", "2018", "2023")
IMAGE_FEATURES = "Amazon's .b file (4096 wide), or a folder with one <item id>.npy per item, as Ducho writes it"
TEXT_ENCODER = "tfidf (no download), sentence-transformers:NAME or sentence-transformers:FOLDER"


def add_command(
    commands,
    name: str,
    summary: str,
    description: str,
    example: str,
    run: Callable[[argparse.Namespace], int],
    aliases: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    """A command whose arguments :func:`run` turns into an exit status."""
    command = commands.add_parser(name, aliases=aliases, help=summary, description=description)
    command.epilog = f"example: {command.prog.removesuffix(name)}{example}"
    command.set_defaults(run=run)
    return command


# ------------------------------------------------------------------------------------------------------------
# groups of options


def add_steps(command: argparse.ArgumentParser) -> None:
    """The fields of :class:`~dataset_prep.options.Options`, except ``max_bad``."""
    steps = command.add_argument_group("steps")
    steps.add_argument(
        "--k-core",
        type=count,
        default=Options.k_core,
        help="smallest number of interactions per user and item (default: %(default)s)",
    )
    steps.add_argument("--min-rating", type=float, metavar="R", help="keep ratings of R and more")
    steps.add_argument(
        "--split",
        choices=SPLIT_METHODS,
        default=Options.split,
        help="mmrec: random 8:1:1 per user (default); none leaves splitting to RecBole",
    )
    steps.add_argument("--seed", type=seed, default=Options.seed, help="of the random split (default: %(default)s)")
    steps.add_argument(
        "--text-encoder",
        default=Options.text_encoder,
        metavar="NAME",
        help=f"{TEXT_ENCODER}, or none (default: %(default)s)",
    )
    images = steps.add_mutually_exclusive_group()
    images.add_argument("--image-features", metavar="FILE|DIR", help=IMAGE_FEATURES)
    images.add_argument("--images", metavar="DIR", help="images named by item id")
    add_encoders(steps)


def add_encoders(group) -> None:
    group.add_argument(
        "--text-width", type=count, default=Options.text_width, help="width of tfidf (default: %(default)s)"
    )
    group.add_argument("--image-encoder", metavar="NAME", help="timm:MODEL or torchvision:MODEL")
    group.add_argument("--image-weights", metavar="FILE", help="weights of the image encoder, or 'pretrained'")
    group.add_argument(
        "--batch", type=count, default=Options.batch, help="texts or images per step (default: %(default)s)"
    )


def add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--name", required=True, help="name of the dataset: letters, digits, '.', '_', '-'")
    command.add_argument("--out", default="dataset", metavar="DIR", help="parent folder (default: %(default)s)")
    add_max_bad(command)
    add_plot(command)


def add_max_bad(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-bad",
        type=share,
        default=MAX_BAD,
        metavar="SHARE",
        help="largest share of unusable lines of a file that is skipped and counted (default: %(default)s)",
    )


def add_plot(command: argparse.ArgumentParser) -> None:
    command.add_argument("--plot", metavar="PNG", help="also draw popularity, activity and coverage")


def options_of(args: argparse.Namespace) -> Options:
    """The options of :func:`add_steps` and ``--max-bad``."""
    from dataclasses import fields

    return Options(**{option.name: getattr(args, option.name) for option in fields(Options)})


# ------------------------------------------------------------------------------------------------------------
# types of values


def share(text: str) -> float:
    return _number(text, 0, 1, "a share between 0 and 1")


def positive(text: str) -> float:
    return _number(text, 1e-6, 1e9, "a number above 0")


def _number(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


# ------------------------------------------------------------------------------------------------------------
# results


def show_written(args: argparse.Namespace, written: Written) -> int:
    """Print the card of a dataset that was written, and draw it if asked to; the exit status."""
    from ..card import summary

    print(summary(written.card))
    print(f"\n{'written to' if written.changed else 'already there, byte for byte:'} {written.folder}")
    draw_plot(args, written.folder)
    return 0


def draw_plot(args: argparse.Namespace, folder: str | Path) -> None:
    if args.plot:
        from ..plot import plot_dataset

        print(f"drawn: {plot_dataset(folder, args.plot)}")
