"""Command lines of ``recbole-mambarec recommend`` and ``similar``; a bundle is read without loading torch."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from recbole_mambarec_command.command_line import example, termination_as_interrupt
from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.options import SCORING_KEYS, check_changeable, configuration
from recbole_mambarec_serving.ids import Ids
from recbole_mambarec_serving.recommender import BY_MODEL, Recommender
from recbole_mambarec_serving.types import Ranked, Recommendation
from recbole_mambarec_serving.writing import RECOMMENDATIONS, SIMILAR, Names, check_ending, read_ids, write_ranked

_ALL, _NONE = "all", "none"


def recommend(argv: list[str] | None = None, prog: str = "recbole-mambarec recommend") -> int:
    """Recommend items to users.

    Raises:
        UserError: an option is faulty, or a user is unknown; nothing has been written by then.
    """
    parser = _parser(
        prog,
        "Rank the catalogue for users of a trained model. Any other --key=value scores it with another value of "
        f"{', '.join(SCORING_KEYS)} than it was trained with.",
        "--all --k 20 --out recs.parquet",
    )
    add = parser.add_argument
    add("--user", action="append", default=[], metavar="ID", help="a user; may be given several times")
    add("--users", metavar="FILE", help="users, one id per line, or a column user_id of a CSV or Parquet file")
    add("--all", action="store_true", help="all users that the model was trained on")
    add("--items", metavar="ID,ID", help="instead: a new user who has these items")
    add("--k", type=int, default=20, help="items per user (default %(default)s)")
    add(
        "--exclude-seen",
        default=_ALL,
        metavar="PARTS",
        help="leave out what the user has in these parts of the data: all, none, train, or train+valid (default all)",
    )
    add("--approximate", action="store_true", help="search the index of a bundle that was exported with --ann")
    add("--among", metavar="FILE", help="rank only the items of this file, given like --users with a column item_id")
    _add_out(add)
    options, rest = parser.parse_known_args(argv)
    changed = configuration(rest, rest)
    check_changeable(changed)
    with termination_as_interrupt():
        out = _out(options.out)
        _only_one(user=options.user, users=options.users, all=options.all, items=options.items)
        rec = _load(options, changed)
        among = read_ids(Path(options.among), "item_id") if options.among else None
        seen = {_ALL: True, _NONE: False}.get(options.exclude_seen, options.exclude_seen)
        if options.items:
            if out is not None or options.approximate:
                raise UserError("--out and --approximate are for known users: leave them out with --items")
            items = [item for item in options.items.split(",") if item]
            _print("-", rec.recommend_for(items, options.k, exclude_seen=bool(seen), among=among))
            return 0
        users = _chosen(rec.users, options.user, options.users, options.all, "user_id")
        blocks = rec.ranked(users, options.k, exclude_seen=seen, among=among, approximate=options.approximate)
        return _written(rec, blocks, len(users), out, RECOMMENDATIONS, "users")


def similar(argv: list[str] | None = None, prog: str = "recbole-mambarec similar") -> int:
    """List similar items.

    Raises:
        UserError: an option is faulty, or an item is unknown; nothing has been written by then.
    """
    parser = _parser(prog, "List the items that are most similar to items.", "--item B000123 --by image")
    add = parser.add_argument
    add("--item", action="append", default=[], metavar="ID", help="an item; may be given several times")
    add("--items", metavar="FILE", help="items, one id per line, or a column item_id of a CSV or Parquet file")
    add("--all", action="store_true", help="all items")
    add("--k", type=int, default=10, help="similar items per item (default %(default)s)")
    add("--by", default=BY_MODEL, help="what the model has learnt (model), or a modality (default %(default)s)")
    _add_out(add)
    options = parser.parse_args(argv)
    with termination_as_interrupt():
        out = _out(options.out)
        _only_one(item=options.item, items=options.items, all=options.all)
        rec = _load(options)
        items = _chosen(rec.items, options.item, options.items, options.all, "item_id")
        return _written(rec, rec.similar(items, options.k, options.by), len(items), out, SIMILAR, "items")


def _parser(prog: str, description: str, usual: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"Example: {example(prog)} --model-file saved/MambaRec-....pth {usual}",
        allow_abbrev=False,
    )
    parser.add_argument("--model-file", required=True, metavar="PATH", help="checkpoint, fusion, or folder of a bundle")
    parser.add_argument(
        "--data-path", help="folder with the dataset's folder (default: where the model was trained; none for a bundle)"
    )
    return parser


def _add_out(add) -> None:
    add("--out", metavar="FILE", help="write to a file .parquet, .csv or .jsonl instead of the terminal")


def _out(text: str | None) -> Path | None:
    if text is None:
        return None
    check_ending(Path(text))
    return Path(text)


def _only_one(**options: object) -> None:
    """Refuse anything but one way to choose."""
    if sum(map(bool, options.values())) != 1:
        names = [f"--{name}" for name in options]
        raise UserError(f"choose with one of {', '.join(names[:-1])} and {names[-1]}")


def _load(options: argparse.Namespace, changed: Mapping[str, str] | None = None) -> Recommender:
    """Load the model.

    Args:
        changed: configuration as it was typed.
    """
    path = Path(options.model_file)
    if path.is_dir():
        return Recommender.load(path, changed=changed)
    importlib.import_module("recbole_mambarec").start()
    module = importlib.import_module("recbole_mambarec.recommend.recommender")
    values = importlib.import_module("recbole_mambarec.scoring.changed").read_values(changed or {})
    with importlib.import_module("recbole_mambarec.mistakes").user_errors_of_recbole():
        return module.Recommender.load(path, options.data_path, values)


def _chosen(ids: Ids, single: list[str], file: str | None, everybody: bool, column: str) -> list[str]:
    if everybody:
        return ids.tokens.tolist()
    found = read_ids(Path(file), column) if file else single
    unknown = [token for token in found if token not in ids]
    if file and unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{file} names {ids.what} '{unknown[0]}'{others}, of whom the model knows nothing: remove them, or train "
            "on data that have them"
        )
    ids.positions(found)
    return found


def _written(rec: Recommender, blocks: Iterator[Ranked], count: int, out: Path | None, names: Names, unit: str) -> int:
    if out is None:
        for block in blocks:
            for owner, listed in zip(block.users, rec.lists(block)):
                _print(str(owner), listed)
        return 0
    number = write_ranked(out, _shown(blocks, count, unit), rec.catalogue, names)
    print(f"{number} {unit} in {out}", file=sys.stderr)
    return 0


def _shown(blocks: Iterable[Ranked], count: int, unit: str) -> Iterator[Ranked]:
    """The blocks, with a progress bar if they take their time."""
    with tqdm(total=count, unit=f" {unit}", delay=2) as bar:
        for block in blocks:
            yield block
            bar.update(len(block.users))


def _print(owner: str, listed: list[Recommendation]) -> None:
    """A line per item, its columns separated by tabs, which other programs can read."""
    for rank, r in enumerate(listed, 1):
        print("\t".join([owner, str(rank), r.item, f"{r.score:.6g}", *([r.title] if r.title else [])]))
