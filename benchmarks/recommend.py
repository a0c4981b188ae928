"""Recommending: a million users, and how well new users and new items are placed.

    python -m benchmarks.recommend stream [--users 1000000] [--items 7000] [--width 64] [--k 20] [--out recs.parquet]
    python -m benchmarks.recommend fold-in --models BPR,MambaRec,... [--dataset ml-100k] [--key=value ...]
    python -m benchmarks.recommend fold-in --checkpoints FILE... [--data-path dataset]
    python -m benchmarks.recommend new-items --models VBPR,... --dataset lfm2k [--data-path dataset] [--key=value ...]

    python -m benchmarks.recommend single [--items 7000,100000] [--width 64] [--k 20]

``stream`` recommends to all users of a bundle of random embeddings, 30 seen items each, and writes the lists to a file:
seconds, and the largest memory of the process beyond that of the loaded bundle.

``fold-in`` trains models, or takes checkpoints, and folds known users in by their own training items: the share of
their first 20 items that remains, by the linear function that a bundle has, and by the propagation that a checkpoint
has. Nothing is fitted to these users.

``single`` ranks random embeddings for one user after another, exactly and by the index for approximate search: CPU
milliseconds per user, and the recall of the index, for which random embeddings are the worst case.

``new-items`` trains models on a prepared dataset without a tenth of its items, adds these by their features, and ranks
them alone for the users who have any: the mean Recall@20, beside that of a random order.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from recbole_mambarec_serving.approximate import ItemIndex
from recbole_mambarec_serving.catalogue import Catalogue
from recbole_mambarec_serving.ids import Ids
from recbole_mambarec_serving.recommender import SEEN_BITS, Recommender
from recbole_mambarec_serving.scoring import FoldIn, InnerProducts
from recbole_mambarec_serving.writing import write_ranked

_SEEN = 30
# users whom `single` ranks for
_ASKED = 200
_MIB = 2**20


def synthetic(n_users: int, n_items: int, width: int) -> Recommender:
    """A recommender of random embeddings, in which each user has seen up to 30 items."""
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, width), dtype=np.float32) for n in (n_users, n_items))
    columns = np.sort(rng.integers(0, n_items, (n_users, _SEEN), dtype=np.int32), axis=1).ravel()
    starts = np.arange(0, n_users * _SEEN + 1, _SEEN)
    bits = np.full(len(columns), SEEN_BITS["train"], dtype=np.uint8)
    seen = sp.csr_array((bits, columns, starts), shape=(n_users, n_items))
    function = FoldIn(
        np.zeros((2 * width, width), np.float32), np.zeros(width, np.float32), np.ones(n_items, np.float32)
    )
    catalogue = Catalogue(Ids("item", [f"i{n}" for n in range(n_items)]), None, None, np.ones(n_items, dtype=np.int64))
    ids = Ids("user", [f"u{n}" for n in range(n_users)])
    return Recommender("random", InnerProducts(users, items, function), ids, catalogue, seen)


def peak() -> int:
    """The largest memory of this process so far, in bytes."""
    import resource  # not on Windows

    # kilobytes on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def stream(options: argparse.Namespace) -> None:
    """Recommend to everybody."""
    recommender = synthetic(options.users, options.items, options.width)
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "recs.parquet"
        recommender.users.positions(["u0"])  # the table of ids belongs to what is loaded
        before, started = peak(), time.perf_counter()
        count = write_ranked(out, recommender.ranked(recommender.users.tokens, options.k), recommender.catalogue)
        seconds = time.perf_counter() - started
        print(
            f"{count} users x {options.k} of {options.items} items, width {options.width}: {seconds:.1f} s, "
            f"{count / seconds:.0f} users/s, {(peak() - before) / _MIB:.0f} MiB beyond the loaded {before / _MIB:.0f} "
            f"MiB, {out.stat().st_size / _MIB:.0f} MiB written"
        )


def single(options: argparse.Namespace) -> None:
    """Rank for users one at a time, exactly and approximately."""
    print("| items | exact, ms | approximate, ms | recall@20 | building, s |")
    print("|---:|---:|---:|---:|---:|")
    for n_items in map(int, options.items.split(",")):
        recommender = synthetic(_ASKED, n_items, options.width)
        started = time.process_time()
        recommender.index = ItemIndex.of(recommender.scoring, recommender.name)
        building = time.process_time() - started
        recall = recommender.index.described(recommender.scoring)["recall@20"]
        took = []
        for approximate in (False, True):
            started = time.process_time()
            for user in recommender.users.tokens.tolist():
                recommender.recommend(user, options.k, approximate=approximate)
            took.append(1000 * (time.process_time() - started) / _ASKED)
        print(f"| {n_items} | {took[0]:.2f} | {took[1]:.2f} | {recall:.3f} | {building:.0f} |", flush=True)


def fold_in(options: argparse.Namespace, rest: list[str]) -> None:
    """The overlap of each model, as a row of a table."""
    from recbole_mambarec.scoring.restore import restore

    print("| model | new users of a checkpoint | overlap@20 | of a bundle | overlap@20 | seconds per new user |")
    print("|---|---|---:|---|---:|---:|")
    for file in options.checkpoints or []:
        print(_row(restore(file, options.data_path), options.checked), flush=True)
    for model in filter(None, (options.models or "").split(",")):
        with tempfile.TemporaryDirectory() as folder:
            print(
                _row(
                    restore(_trained(model, options.dataset, [*rest, "--show_progress=False"], folder)), options.checked
                ),
                flush=True,
            )


def _trained(model: str, dataset: str, rest: list[str], folder: str) -> Path:
    """The checkpoint of a run with the command line's settings."""
    import subprocess

    command = [sys.executable, "-m", "recbole_mambarec", "run", f"--model={model}", f"--dataset={dataset}", *rest]
    command += [f"--checkpoint_dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{model} could not be trained: {done.stderr.splitlines()[-1:]}")
    (file,) = Path(folder).glob("*.pth")
    return file


def _row(run, checked: int) -> str:
    from recbole_mambarec.recommend.fold_in import overlap
    from recbole_mambarec.recommend.recommender import over
    from recbole_mambarec_serving.bundle import training_history

    recommender = over(run)
    scoring, history = recommender.scoring, training_history(recommender.seen)
    if scoring.parts is None:
        return f"| {recommender.name} | unknown | - | unknown | - | - |"
    of_bundle = overlap(scoring.parts, history, n_users=checked)
    first, second = "as in a bundle", "exact" if scoring.is_exact else "linear"
    if scoring.not_propagated:
        return f"| {recommender.name} | {first} | | {second} | {of_bundle['overlap@20']:.3f} | |"
    known = np.flatnonzero(np.diff(history.indptr) > 0)
    drawn = np.random.default_rng(0).permutation(known)[: min(checked, max(1, len(known) // 5))]
    seconds = []

    def propagated(mine: sp.csr_array) -> np.ndarray:
        found = []
        for row in range(mine.shape[0]):  # one at a time, as new users come
            started = time.perf_counter()
            found.append(scoring.fold_in(mine[[row]], without=drawn))
            seconds.append(time.perf_counter() - started)
        return np.concatenate(found)

    of_model = overlap(scoring, history, propagated, n_users=checked)
    return (
        f"| {recommender.name} | propagation | {of_model['overlap@20']:.3f} | {second} | "
        f"{of_bundle['overlap@20']:.3f} | {np.median(seconds):.2f} |"
    )


def new_items(options: argparse.Namespace, rest: list[str]) -> None:
    """The recall of added items, as a row of a table for each model."""
    from recbole_mambarec import Recommender

    print("| model | new items | users | Recall@20 | random order |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        features, held_out = _without_a_tenth(Path(options.data_path or "dataset") / options.dataset, place / "reduced")
        names = list(next(iter(held_out.values()))[1])
        for model in options.models.split(","):
            settings = [f"--data_path={place}", "--show_progress=False", *rest]
            file = _trained(model, "reduced", settings, str(place / model))
            recommender = Recommender.load(file).add_items(features, names)
            wanted = {user: items for user, (items, _) in held_out.items() if user in recommender.users}
            k = min(20, len(names))
            lists = recommender.recommend(wanted, k, among=names, exclude_seen=False)
            recall = np.mean([len(wanted[u] & {r.item for r in found}) / len(wanted[u]) for u, found in lists])
            print(f"| {model} | {len(names)} | {len(wanted)} | {recall:.3f} | {k / len(names):.3f} |", flush=True)


def _without_a_tenth(source: Path, target: Path) -> tuple[dict[str, np.ndarray], dict[str, tuple[set, tuple]]]:
    """Write a dataset without a tenth of its items.

    Returns:
        The features of these items by modality; and for each user who has any of them, those, and all of them in the
        order of the features.
    """
    target.mkdir()
    head, *lines = (source / f"{source.name}.item").read_text(encoding="utf-8").splitlines()
    tokens = [line.split("\t")[0] for line in lines]
    drawn = np.zeros(len(tokens), dtype=bool)
    drawn[np.random.default_rng(0).permutation(len(tokens))[: len(tokens) // 10]] = True
    kept = [line for line, new in zip(lines, drawn) if not new]
    (target / f"{target.name}.item").write_text("\n".join([head, *kept, ""]), encoding="utf-8")
    features = {}
    for path in source.glob("*.npy"):
        modality, rows = path.name[len(source.name) + 1 : -len(".npy")], np.load(path)
        np.save(target / f"{target.name}.{modality}.npy", rows[~drawn])
        features[modality] = rows[drawn]
    names = tuple(np.array(tokens)[drawn].tolist())
    new, found = set(names), {}
    for part in ("train", "valid", "test"):
        head, *lines = (source / f"{source.name}.{part}.inter").read_text(encoding="utf-8").splitlines()
        fields = [field.partition(":")[0] for field in head.split("\t")]
        rows = [(line, line.split("\t")) for line in lines]
        kept = [line for line, cells in rows if cells[fields.index("item_id")] not in new]
        (target / f"{target.name}.{part}.inter").write_text("\n".join([head, *kept, ""]), encoding="utf-8")
        for _, cells in rows:
            if cells[fields.index("item_id")] in new:
                found.setdefault(cells[fields.index("user_id")], (set(), names))[0].add(cells[fields.index("item_id")])
    return features, found


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    kinds = parser.add_subparsers(dest="kind", required=True)
    streaming = kinds.add_parser("stream", allow_abbrev=False)
    for name, value in (("users", 1_000_000), ("items", 7_000), ("width", 64), ("k", 20)):
        streaming.add_argument(f"--{name}", type=int, default=value)
    streaming.add_argument("--out", type=Path)
    folding = kinds.add_parser("fold-in", allow_abbrev=False)
    folding.add_argument("--models")
    folding.add_argument("--dataset", default="ml-100k")
    folding.add_argument("--checkpoints", nargs="+")
    folding.add_argument("--data-path")
    folding.add_argument("--checked", type=int, default=100, help="known users who are folded in")
    adding = kinds.add_parser("new-items", allow_abbrev=False)
    adding.add_argument("--models", required=True)
    adding.add_argument("--dataset", required=True)
    adding.add_argument("--data-path")
    one = kinds.add_parser("single", allow_abbrev=False)
    one.add_argument("--items", default="7000,100000")
    one.add_argument("--width", type=int, default=64)
    one.add_argument("--k", type=int, default=20)
    options, rest = parser.parse_known_args(argv)
    sys.argv = sys.argv[:1]  # RecBole reads the command line
    if options.kind == "stream":
        stream(options)
    elif options.kind == "single":
        single(options)
    else:
        {"fold-in": fold_in, "new-items": new_items}[options.kind](options, rest)


if __name__ == "__main__":
    main()
