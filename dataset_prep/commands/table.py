"""``csv``: any table of interactions."""

from __future__ import annotations

import argparse

from .arguments import add_command, add_output, add_steps, names, options_of, show_written

_COLUMNS = ("user_column", "item_column", "rating_column", "time_column", "time_unit", "item_id_column", "text_columns")


def add(commands) -> None:
    command = add_command(
        commands,
        "csv",
        "any table of interactions: CSV, TSV, Parquet or JSON lines",
        "Read a table of interactions and, if there is one, a table of items; then proceed as 'amazon' does. Columns "
        "that are not named are guessed from usual names (user_id, item_id, rating, title, ...).",
        "csv --interactions ratings.csv --items movies.csv --name movies --text-columns title,genres",
        run,
    )
    command.add_argument("--interactions", required=True, metavar="FILE", help=".csv, .tsv, .jsonl, .parquet, .gz")
    command.add_argument("--items", metavar="FILE", help="a table with one line per item")
    command.add_argument("--user-column", metavar="NAME")
    command.add_argument("--item-column", metavar="NAME")
    command.add_argument("--rating-column", metavar="NAME")
    command.add_argument("--time-column", metavar="NAME")
    command.add_argument(
        "--time-unit",
        choices=("s", "ms", "us", "ns", "iso"),
        help="of the timestamps; iso: texts such as 2018-06-17 02:00:00 (default: guessed)",
    )
    command.add_argument("--item-id-column", metavar="NAME", help="in the table of items")
    command.add_argument(
        "--text-columns", type=names, default=(), metavar="NAME,NAME", help="the title first (default: guessed)"
    )
    add_steps(command)
    add_output(command)


def run(args: argparse.Namespace) -> int:
    from ..prepare import prepare
    from ..readers.tabular import InteractionTable

    source = InteractionTable(args.interactions, args.items, **{name: getattr(args, name) for name in _COLUMNS})
    return show_written(args, prepare(source, args.name, args.out, options=options_of(args), command=args.command_line))
