"""Commands: ``recbole-mambarec prepare --help``, ``python -m dataset_prep --help``.

Only the standard library is imported before the arguments are understood, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys

_SPLITS = ("mmrec", "leave-one-out", "temporal-user", "temporal-global", "none")


_PROG = "python -m dataset_prep"


def parser(prog: str = _PROG) -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog=prog,
        description="Turn raw files into a dataset that models can be trained on.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_amazon,
        _add_mmrec,
        _add_lattice,
        _add_diffmm,
        _add_csv,
        _add_features,
        _add_fetch_images,
        _add_check,
    ):
        add(commands)
    return top


def _add(
    commands, name: str, summary: str, description: str, example: str, run, aliases: tuple[str, ...] = ()
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        aliases=aliases,
        help=summary,
        description=description,
    )
    command.epilog = f"example: {command.prog.removesuffix(name)}{example}"
    command.set_defaults(run=run)
    return command


def _add_amazon(commands) -> None:
    command = _add(
        commands,
        "amazon",
        "a category of Amazon Reviews 2014, 2018 or 2023",
        "Read reviews and metadata (plain or gzip), clean, take the k-core, split, encode the texts and "
        "images, and write a dataset. The version is recognised. Interrupted, the "
        "same command goes on where it stopped.",
        "amazon --reviews reviews_Baby_5.json.gz --meta meta_Baby.json.gz --name baby",
        _amazon,
    )
    command.add_argument("--reviews", required=True, metavar="FILE", help="JSON lines, or a ratings table")
    command.add_argument("--meta", metavar="FILE", help="the metadata of the same version (texts of the items)")
    command.add_argument("--version", choices=("2014", "2018", "2023"), help="do not guess the version")
    _add_steps(command)
    _add_output(command)


def _add_mmrec(commands) -> None:
    command = _add(
        commands,
        "mmrec",
        "a folder in MMRec's or MRLib's layout",
        "Read MMRec's layout (NAME.inter with x_label 0/1/2, *_feat.npy or *_feat.pt, optional id maps) or "
        "MRLib's (inter.csv), check it, and write a dataset that keeps its split.",
        "mmrec downloads/baby --name baby",
        _mmrec,
    )
    command.add_argument("source", metavar="SOURCE", help="the folder, or the interaction file in it")
    _add_output(command)


def _add_lattice(commands) -> None:
    command = _add(
        commands,
        "lattice",
        "a folder in LATTICE's or MMSSL's layout",
        "Read train.json, val.json and test.json (number of a user -> numbers of the items), *_feat.npy beside them or "
        "above 5-core, and item_list.txt and user_list.txt if they are there; check them, and write a dataset that "
        "keeps the split.",
        "lattice downloads/sports --name sports",
        _lattice,
        aliases=("mmssl",),
    )
    command.add_argument("source", metavar="SOURCE", help="the folder with train.json, or the one above 5-core")
    _add_output(command)


def _add_diffmm(commands) -> None:
    command = _add(
        commands,
        "diffmm",
        "a folder in DiffMM's layout",
        "Read trnMat.pkl, valMat.pkl and tstMat.pkl (scipy sparse matrices of users x items; MMSSL's train_mat, "
        "val_mat and test_mat too) and *_feat.npy, check them, and write a dataset that keeps the split. The pickles "
        "are read without running anything in them.",
        "diffmm downloads/tiktok --name tiktok",
        _diffmm,
    )
    command.add_argument("source", metavar="SOURCE", help="the folder")
    _add_output(command)


def _add_csv(commands) -> None:
    command = _add(
        commands,
        "csv",
        "any table of interactions: CSV, TSV, Parquet or JSON lines",
        "Read a table of interactions and, if there is one, a table of items; then as 'amazon'. "
        "Columns that are not named are guessed from usual names (user_id, item_id, rating, title, ...).",
        "csv --interactions ratings.csv --items movies.csv --name movies --text-columns title,genres",
        _csv,
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
        "--text-columns", type=_names, default=(), metavar="NAME,NAME", help="title first (default: guessed)"
    )
    _add_steps(command)
    _add_output(command)


def _add_features(commands) -> None:
    command = _add(
        commands,
        "features",
        "add, replace or remove one modality of a prepared dataset",
        "Give one source of features for a modality of a prepared dataset, or --remove it. Items that the "
        "source does not have get a row of NaN.",
        "features dataset/baby --modality text --text-encoder sentence-transformers:all-MiniLM-L6-v2",
        _features,
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
    source.add_argument("--text-encoder", metavar="NAME", help=_TEXT_ENCODER)
    source.add_argument("--image-features", metavar="FILE|DIR", help=_IMAGE_FEATURES)
    source.add_argument("--images", metavar="DIR", help="images named by item id")
    source.add_argument("--remove", action="store_true", help="take the modality away")
    rows = command.add_mutually_exclusive_group()
    rows.add_argument(
        "--ids", metavar="FILE", help="with --array: line k names the item of row k (or a .item file, in its order)"
    )
    rows.add_argument(
        "--first-id", type=_count, metavar="N", help="with --array: row 0 is that of item N, row 1 of N + 1, ..."
    )
    _add_encoders(command)
    command.add_argument("--seed", type=int, default=999, help="of TF-IDF's decomposition (default: 999)")
    _add_max_bad(command)


def _add_fetch_images(commands) -> None:
    command = _add(
        commands,
        "fetch-images",
        "download the images named in Amazon metadata",
        "Download one image per item of a prepared dataset, politely: one at a time, limited rate, retries, "
        "and started again it goes on where it stopped. Failures are counted and listed in DIR/failed.tsv.",
        "fetch-images --meta meta_Baby.json.gz --dataset dataset/baby --images images/baby",
        _fetch_images,
    )
    command.add_argument("--meta", required=True, metavar="FILE", help="metadata with the addresses")
    command.add_argument("--dataset", required=True, metavar="DATASET", help="whose items to fetch")
    command.add_argument("--images", required=True, metavar="DIR", help="where to put the images")
    command.add_argument("--version", choices=("2014", "2018", "2023"), help="do not guess the version")
    command.add_argument("--rate", type=_positive, default=2.0, help="requests per second (default: 2)")
    command.add_argument("--retries", type=_count, default=4, help="after failures that may pass (default: 4)")
    command.add_argument("--max-mb", type=_positive, default=10.0, help="of one image (default: 10)")
    command.add_argument("--retry-failed", action="store_true", help="ask again what failed for good before")
    command.add_argument(
        "--allow-private",
        action="store_true",
        help="also ask addresses that are not public, such as a local mirror",
    )
    _add_max_bad(command)


def _add_check(commands) -> None:
    command = _add(
        commands,
        "check",
        "validate a prepared dataset and print its card",
        "Compare a prepared dataset with its card: files, hashes, ids, arrays, interactions. Exit status 1 "
        "when something is wrong.",
        "check dataset/baby",
        _check,
    )
    command.add_argument("dataset", metavar="DATASET", help="the folder of the dataset")
    _add_plot(command)


_IMAGE_FEATURES = "Amazon's .b file (4096 wide), or a folder with one <item id>.npy per item, as Ducho writes it"
_TEXT_ENCODER = "tfidf (no download), sentence-transformers:NAME or :FOLDER"


def _add_steps(command: argparse.ArgumentParser) -> None:
    steps = command.add_argument_group("steps")
    steps.add_argument("--k-core", type=_count, default=5, help="at least so many per user and item (default: 5)")
    steps.add_argument("--min-rating", type=float, metavar="R", help="keep ratings of R and more")
    steps.add_argument(
        "--split",
        choices=_SPLITS,
        default="mmrec",
        help="mmrec: random 8:1:1 per user (default); none leaves splitting to RecBole",
    )
    steps.add_argument("--seed", type=int, default=999, help="of the random split (default: 999)")
    steps.add_argument(
        "--text-encoder", default="tfidf", metavar="NAME", help=f"{_TEXT_ENCODER}, or none (default: tfidf)"
    )
    images = steps.add_mutually_exclusive_group()
    images.add_argument("--image-features", metavar="FILE|DIR", help=_IMAGE_FEATURES)
    images.add_argument("--images", metavar="DIR", help="images named by item id")
    _add_encoders(steps)


def _add_encoders(group) -> None:
    group.add_argument("--text-width", type=_count, default=384, help="of tfidf (default: 384)")
    group.add_argument("--image-encoder", metavar="NAME", help="timm:MODEL or torchvision:MODEL")
    group.add_argument("--image-weights", metavar="FILE", help="weights of the image encoder, or 'pretrained'")
    group.add_argument("--batch", type=_count, default=64, help="texts or images per step (default: 64)")


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--name", required=True, help="of the dataset: letters, digits, '.', '_', '-'")
    command.add_argument("--out", default="dataset", metavar="DIR", help="where to put it (default: dataset)")
    _add_max_bad(command)
    _add_plot(command)


def _add_max_bad(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-bad",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="largest share of faulty lines of a file that is skipped and counted (default: 0.01)",
    )


def _add_plot(command: argparse.ArgumentParser) -> None:
    command.add_argument("--plot", metavar="PNG", help="also draw popularity, activity and coverage")


def _share(text: str) -> float:
    return _number(text, 0, 1, "a share between 0 and 1")


def _positive(text: str) -> float:
    return _number(text, 1e-6, 1e9, "a number above 0")


def _number(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _amazon(args: argparse.Namespace) -> int:
    from .prepare import prepare_amazon

    result = prepare_amazon(
        args.reviews,
        args.meta,
        args.name,
        args.out,
        version=args.version,
        options=_options(args),
        command=args.words,
    )
    return _report(args, *result)


def _csv(args: argparse.Namespace) -> int:
    from .prepare import prepare_table

    result = prepare_table(
        args.interactions,
        args.items,
        args.name,
        args.out,
        user_column=args.user_column,
        item_column=args.item_column,
        rating_column=args.rating_column,
        time_column=args.time_column,
        time_unit=args.time_unit,
        item_id_column=args.item_id_column,
        text_columns=args.text_columns,
        options=_options(args),
        command=args.words,
    )
    return _report(args, *result)


def _options(args: argparse.Namespace):
    from dataclasses import fields

    from .prepare import Options

    return Options(**{option.name: getattr(args, option.name) for option in fields(Options)})


def _mmrec(args: argparse.Namespace) -> int:
    from .readers.mmrec import read_mmrec

    return _write(args, read_mmrec(args.source, args.name, max_bad=args.max_bad))


def _lattice(args: argparse.Namespace) -> int:
    from .readers.lattice import read_lattice

    return _write(args, read_lattice(args.source, args.name, max_bad=args.max_bad))


def _diffmm(args: argparse.Namespace) -> int:
    from .readers.diffmm import read_diffmm

    return _write(args, read_diffmm(args.source, args.name, max_bad=args.max_bad))


def _write(args: argparse.Namespace, prepared) -> int:
    from .write import write_dataset

    prepared.card["command"] = args.words
    return _report(args, *write_dataset(prepared, args.out))


def _report(args: argparse.Namespace, folder, card: dict, changed: bool) -> int:
    from .card import summary

    print(summary(card))
    print(f"\n{'written to' if changed else 'already there, byte for byte:'} {folder}")
    _plot(args, folder)
    return 0


def _plot(args: argparse.Namespace, folder) -> None:
    if args.plot:
        from .plot import plot_dataset

        print(f"drawn: {plot_dataset(folder, args.plot)}")


def _features(args: argparse.Namespace) -> int:
    from .card import summary
    from .features import remove_modality, set_modality

    if args.remove:
        card = remove_modality(args.dataset, args.modality)
    else:
        card = set_modality(
            args.dataset,
            args.modality,
            array=args.array,
            ids=args.ids,
            first_id=args.first_id,
            text_encoder=args.text_encoder,
            text_width=args.text_width,
            image_features=args.image_features,
            images=args.images,
            image_encoder=args.image_encoder,
            image_weights=args.image_weights,
            seed=args.seed,
            batch=args.batch,
            max_bad=args.max_bad,
            command=args.words,
        )
    print(summary(card))
    print(f"\nwritten to {args.dataset}")
    return 0


def _fetch_images(args: argparse.Namespace) -> int:
    from pathlib import Path

    from .fetch import Fetcher, addresses_of, fetch_images
    from .folder import read_card, read_items

    dataset = Path(args.dataset)
    items = read_items(dataset, read_card(dataset)["name"])["item_id"]
    addresses = addresses_of(args.meta, items, args.version, args.max_bad)
    fetcher = Fetcher(
        rate=args.rate,
        retries=args.retries,
        max_bytes=int(args.max_mb * (1 << 20)),
        allow_private=args.allow_private,
    )
    for what, n in fetch_images(addresses, args.images, fetcher, retry_failed=args.retry_failed).items():
        print(f"{what}: {n:,}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from .card import summary
    from .check import check_dataset

    card, problems = check_dataset(args.dataset)
    if problems:
        print("\n".join(f"problem: {problem}" for problem in problems))
        return 1
    print(summary(card))
    print(f"\nsound: {args.dataset}")
    _plot(args, args.dataset)
    return 0


def main(argv: list[str] | None = None, prog: str = _PROG) -> int:
    """Run the command line ``argv`` (default: that of the process); gives the exit status.

    Args:
        prog: what was typed before it.

    Raises:
        UserError: the input is at fault.
        MissingRequirement: a package that this command needs is missing or broken.
    """
    argv = sys.argv[1:] if argv is None else argv
    # answers --help and refuses wrong arguments before anything else is imported
    args = parser(prog).parse_args(argv)
    from recbole_mambarec_command.requirements import explained
    from recbole_mambarec_common.errors import UserError

    from .tokens import only_path_names

    args.words = only_path_names(argv)
    try:
        return args.run(args)
    except ImportError as error:
        missing = explained(error)
        if missing is None:
            raise
        raise missing from error
    except OSError as error:
        # no space, no rights, not a folder: the system's own words say it best
        where = f": {error.filename}" if error.filename else ""
        # numpy reports a full disk as "n requested and m written", without the system's words
        words = error.strerror or f"not everything could be written or read ({error}): is the disk full?"
        raise UserError(f"{words}{where}") from error


if __name__ == "__main__":
    from recbole_mambarec_command.command import door

    door("prepare", _PROG)
