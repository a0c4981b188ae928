"""``amazon``: a category of Amazon Reviews."""

from __future__ import annotations

import argparse

from .arguments import AMAZON_VERSIONS, add_command, add_output, add_steps, options_of, show_written


def add(commands) -> None:
    command = add_command(
        commands,
        "amazon",
        "a category of Amazon Reviews 2014, 2018 or 2023",
        "Read reviews and metadata (plain or gzip), clean them, take the k-core, split, encode the texts and images, "
        "and write a dataset. The version is recognised. If interrupted, the same command resumes where it stopped.",
        "amazon --reviews reviews_Baby_5.json.gz --meta meta_Baby.json.gz --name baby",
        run,
    )
    command.add_argument("--reviews", required=True, metavar="FILE", help="JSON lines, or a ratings table")
    command.add_argument("--meta", metavar="FILE", help="the metadata of the same version (texts of the items)")
    command.add_argument("--version", choices=AMAZON_VERSIONS, help="do not guess the version")
    add_steps(command)
    add_output(command)


def run(args: argparse.Namespace) -> int:
    from ..prepare import prepare
    from ..readers.amazon import AmazonReviews

    source = AmazonReviews(args.reviews, args.meta, version=args.version)
    return show_written(args, prepare(source, args.name, args.out, options=options_of(args), command=args.command_line))
