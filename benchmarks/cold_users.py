"""Users without training interactions: are similar users a better guess than popularity?

    python -m benchmarks.cold_users [--seeds 10] [--neighbours 20,50,100,200] [--columns gender age,gender ...]
    python -m benchmarks.cold_users --speed [--cold 10000] [--known 100000] [--items 20000]

Of ml-100k, which comes with RecBole, a fifth of the users are held out for the test and a tenth for the validation; the
rest is the training data. The held-out users' interactions are what is to be found. Each number of neighbours and each
set of columns is evaluated by RecBole for the held-out users: means over the seeds, and on the test users the mean
difference to popularity with its standard deviation over the seeds. No model is trained, because none has a say in
these scores.
``age`` is a token in the ``.user`` file; ``years`` is the same as a number.

``--speed`` times the search for users of random ages, genders and occupations.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

COLUMNS = (
    "gender",
    "years",
    "years,gender",
    "gender,occupation",
    "years,gender,occupation",
    "age,gender,occupation",
    "",
)
_METRICS = ("recall@20", "ndcg@20")


def write_split(source: Path, folder: Path, seed: int) -> None:
    """ml-100k as a dataset whose validation and test have users of their own."""
    header, *rows = (source / "ml-100k.inter").read_text(encoding="utf-8").splitlines()
    columns = [name.split(":")[0] for name in header.split("\t")]
    user, item = columns.index("user_id"), columns.index("item_id")
    pairs = [(cells[user], cells[item]) for cells in (row.split("\t") for row in rows)]
    users = sorted({user for user, _ in pairs})
    drawn = np.random.default_rng(seed).permutation(users)
    test, valid = len(users) // 5, len(users) // 10
    part_of = dict.fromkeys(users, "train")
    part_of |= dict.fromkeys(drawn[:test], "test") | dict.fromkeys(drawn[test : test + valid], "valid")
    folder.mkdir(parents=True)
    for part in ("train", "valid", "test"):
        lines = ["user_id:token\titem_id:token", *("\t".join(pair) for pair in pairs if part_of[pair[0]] == part)]
        (folder / f"{folder.name}.{part}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    first, *people = (source / "ml-100k.user").read_text(encoding="utf-8").splitlines()
    age = [name.split(":")[0] for name in first.split("\t")].index("age")
    lines = [f"{first}\tyears:float", *("\t".join([line, line.split("\t")[age]]) for line in people)]
    (folder / f"{folder.name}.user").write_text("\n".join(lines) + "\n", encoding="utf-8")


def evaluated(folder: Path, settings: dict) -> dict[str, np.ndarray]:
    """The metrics on validation and test."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    import recbole_mambarec  # noqa: F401
    from recbole_mambarec.config import no_command_line

    values = {"data_path": str(folder.parent), "show_progress": False, "state": "ERROR", "modalities": []} | settings
    values["benchmark_filename"] = ["train", "valid", "test"]
    with no_command_line():
        config = Config("LayerGCN", folder.name, config_dict=values)
    init_seed(config["seed"], True)
    train, valid, test = data_preparation(config, create_dataset(config))
    model = get_model("LayerGCN")(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "LayerGCN")(config, model)
    return {
        name: np.array([dict(trainer.evaluate(part, load_best_model=False))[m] for m in _METRICS])
        for name, part in (("valid", valid), ("test", test))
    }


def accuracy(options: argparse.Namespace) -> None:
    """The table."""
    from recbole.config import Config

    from recbole_mambarec.config import no_command_line

    with no_command_line():
        source = Path(Config("BPR", "ml-100k")["data_path"])
    neighbours = [int(k) for k in options.neighbours.split(",")]
    found: dict[tuple, list[dict[str, np.ndarray]]] = {}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root) / "cold"
            write_split(source, folder, seed)
            found.setdefault(("popularity", 0), []).append(evaluated(folder, {"cold_users": "popularity"}))
            for columns in options.columns:
                for k in neighbours:
                    settings = {"cold_users": "features", "user_neighbours": k, "user_features": columns or None}
                    found.setdefault((columns or "all", k), []).append(evaluated(folder, settings))
    base = np.array([each["test"] for each in found["popularity", 0]])
    print("| ranked by | neighbours | " + " | ".join(f"{p} {m}" for p in ("valid", "test") for m in _METRICS), end=" |")
    print(" difference in recall | in NDCG |\n|---|---:|" + "---:|" * 6)
    for (columns, k), runs in found.items():
        means = np.concatenate([np.mean([each[part] for each in runs], axis=0) for part in ("valid", "test")])
        more = np.array([each["test"] for each in runs]) - base
        differences = [f"{mean:+.4f} ± {sd:.4f}" for mean, sd in zip(more.mean(axis=0), more.std(axis=0, ddof=1))]
        cells = [columns, str(k or ""), *(f"{value:.4f}" for value in means), *(differences if k else ["", ""])]
        print("| " + " | ".join(cells) + " |", flush=True)


def speed(options: argparse.Namespace) -> None:
    """Seconds of the search, and the size of what it finds."""
    from recbole_mambarec.data.similar_users import of_similar_users
    from recbole_mambarec.data.user_features import Numbers, Tokens, UserFeatures

    rng, n_users = np.random.default_rng(0), options.cold + options.known
    ages = rng.integers(18, 80, n_users)
    columns = {"age": Numbers(ages, ages / ages.std())}
    columns |= {name: Tokens(rng.integers(0, count, n_users)) for name, count in (("gender", 2), ("occupation", 21))}
    of = np.repeat(np.arange(options.known), 20)
    items = rng.integers(0, options.items, len(of))
    history = sp.csr_array((np.ones(len(of), np.float32), (of, items)), shape=(n_users, options.items))
    history.data[:] = 1.0
    started = time.process_time()
    found = of_similar_users(UserFeatures(columns), history, 100)
    print(
        f"{options.cold} users compared with {options.known}: {time.process_time() - started:.1f} s of CPU, "
        f"{found.scores.shape[0]} different users, {found.scores.nnz} scores"
    )


def main(arguments: list[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--neighbours", default="20,50,100,200")
    parser.add_argument("--columns", nargs="+", default=COLUMNS, help="sets of columns; an empty one means all")
    parser.add_argument("--speed", action="store_true", help="time the search instead")
    for name, default in (("cold", 10_000), ("known", 100_000), ("items", 20_000)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"with --speed, default {default}")
    options = parser.parse_args(arguments)
    (speed if options.speed else accuracy)(options)


if __name__ == "__main__":
    main()
