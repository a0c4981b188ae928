"""Random configurations: does each run either finish or end in one sentence?

    python -m benchmarks.fuzz_config --draws=3000 --seed=0

A draw is a model, a tiny dataset and one to three configuration keys with values of any kind: of the wrong type,
negative, huge, not finite, empty, nearly right. Each is configured, read, split, trained for an epoch and tested in
this process. Accepted is a run that finishes and a :class:`UserError` of one line; anything else, a run of more than
``--limit`` seconds included, is a finding, printed with the draw that shows it. Hypothesis draws; the same seed gives
the same draws.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import collections
import contextlib
import copy
import logging
import math
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import recbole_mambarec  # noqa: F401
from recbole_mambarec.config import default_properties, no_command_line
from recbole_mambarec.config_checks import CHECKS
from recbole_mambarec.errors import UserError, one_line
from recbole_mambarec.mistakes import user_errors_of_recbole

PREPARED, PLAIN = "prepared", "plain"
_COLUMNS = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
_NO_NEGATIVES = {"train_neg_sample_args": None}
# what each model requires in order to run, and the dataset it runs on
MODELS: dict[str, tuple[str, dict]] = {
    "MambaRec": (PREPARED, {}),
    "VBPR": (PREPARED, {}),
    "FREEDOM": (PREPARED, {}),
    "BM3": (PREPARED, {}),
    "GRCN": (PREPARED, {}),
    "BPR": (PLAIN, {}),
    "LightGCN": (PREPARED, {}),
    "NeuMF": (PLAIN, {"load_col": _COLUMNS}),
    "GRU4Rec": (PLAIN, {"load_col": _COLUMNS} | _NO_NEGATIVES),
    "FM": (PLAIN, {"load_col": _COLUMNS, "threshold": {"rating": 3}} | _NO_NEGATIVES),
    "KGCN": (
        PLAIN,
        {"load_col": _COLUMNS | {"kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}},
    ),
}
_SMALL = {"epochs": 1, "embedding_size": 8, "train_batch_size": 64, "show_progress": False, "eval_step": 1}
# keys that set a number of repetitions or processes: large values mean long runs, not faults
_REPEATED = (
    "epochs",
    "layer",
    "iter",
    "hop",
    "step",
    "num",
    "worker",
    "nproc",
    "depth",
    "order",
    "size",
    "length",
    "knn_k",
    "n_neighbors",
)
_JUNK = (
    *(None, True, False, 0, 1, 2, -1, 0.5, -0.5, 1e-12, math.nan, math.inf, -math.inf),
    *("", " ", "abc", "None", "true", "1/0", "os.name", "a\nb", "ä", "[0,inf)", "[3,", "0,1", "uni", "x" * 300),
    *([], [1], [0], [-1], [0.5, 0.5], ["user_id"], ["abc"], [None], [[]], (1, 2), ()),
    *({}, {"rating": 3}, {"rating": "[3,inf)"}, {"abc": 1}, {"inter": ["user_id"]}, {"": None}, {1: 2}),
)
_LARGE = (10**12, -(10**12), 2**63, 1e30)
# almost valid values
_NEAR: dict[str, tuple] = {
    "eval_args": (
        *(
            {"mode": mode}
            for mode in ("labeled", "uni5", "pop5", "uni", "full", {"valid": "uni3"}, {"test": "x"}, None)
        ),
        *({"order": order} for order in ("TO", "to", None, "RO")),
        *({"group_by": group} for group in ("user", None, "none", "item", 3)),
        *(
            {"split": {"RS": shares}}
            for shares in ([0.8, 0.2], [1, 0, 0], [0.5, 0.5, 0], [0, 0, 1], [8, 1, 1], "811", None)
        ),
        *({"split": {"LS": how}} for how in ("valid_and_test", "valid_only", "test_only", "x", None)),
        *({"split": {"TS": [0.8, 0.1, 0.1]}, "order": order} for order in ("TO", "RO")),
        *({"split": split} for split in (None, {}, {"RS": [8, 1, 1], "LS": "test_only"}, {"rs": [8, 1, 1]})),
    ),
    "train_neg_sample_args": (
        *({"distribution": name} for name in ("uniform", "popularity", "none", None, "Uniform")),
        *({"distribution": "popularity", "alpha": alpha} for alpha in (0, 1, 100, 1e6, -1, math.nan)),
        *({"sample_num": number} for number in (0, 1, 3, -1, "2", 1.0)),
        *({"dynamic": True, "candidate_num": number} for number in (0, 2, -2)),
    ),
    "metrics": (
        "Recall",
        ["MRR", "MAP"],
        ["AUC"],
        ["AUC", "Recall"],
        ["recal"],
        ["GAUC"],
        ["ItemCoverage", "Hit"],
        ["RMSE"],
    ),
    "topk": (5, [5, 10], [1], [29], [30], [31], [10, 5, 5], ["5"], 5.0, "5"),
    "valid_metric": ("Recall", "Recall@10", "recall@5", "NDCG@10", "AUC", "AUC@10", "MRR@10", "Recall@", "@10", "GAUC"),
    "learner": ("Adam", "sgd", "sparse_adam", "rmsprop", "lamb"),
    "loss_type": ("CE", "BPR", "ce", "MSE"),
    "clip_grad_norm": (5, {"max_norm": 5}, {"max_norm": 0}, {"norm_type": 2}, {"max_norm": 1, "x": 2}, [5]),
    "load_col": ({"inter": "*"}, {"inter": ["user_id", "item_id", "stars"]}, ["user_id"], {"inter": "rating"}, None),
    "unload_col": ({"inter": ["rating"]}, {"inter": ["user_id"]}, {"item": ["class"]}, {"inter": "rating"}),
    "unused_col": ({"inter": ["rating"]}, {"inter": ["user_id"]}, {"abc": ["x"]}),
    "val_interval": (
        {"rating": "[3,inf)"},
        {"rating": "[9,inf)"},
        {"stars": "[3,inf)"},
        {"user_id": ["u1", "u2"]},
        {"rating": "3"},
    ),
    "user_inter_num_interval": ("[5,inf)", "[99,inf)", "[9,2]", "(a,b)", [2, 9], "[2,9];[1,1]"),
    "item_inter_num_interval": ("[2,inf)", "[99,inf)", "[2,", 5),
    "threshold": ({"rating": 3}, {"stars": 3}, {"rating": "3"}, {"user_id": 1}, {"rating": 3, "timestamp": 5}),
    "normalize_field": (["rating"], ["stars"], ["user_id"], "rating"),
    "normalize_all": (True, False),
    "discretization": ({"rating": {"method": "ED", "bucket": 3}}, {"rating": {"method": "X"}}, {"rating": "ED"}),
    "numerical_features": (["rating"], ["stars"], ["user_id"]),
    "rm_dup_inter": ("first", "last", False, True, "all"),
    "benchmark_filename": (["a", "b", "c"], ["a", "b"], "train,valid,test", ["train", "valid", "test"]),
    "transform": ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined", "x"),
    "seed": (0, 2**32 - 1, 2**32, -1, 1.5),
    "state": ("INFO", "debug", "loud"),
    "modalities": ("text", ["image", "text"], ["video"], ["text", "text"], []),
    "derive_modalities": (
        {"words": {"kind": "tfidf", "fields": ["class"]}},
        {"words": {"kind": "tfidf"}},
        {"words": {"kind": "tf-idf", "fields": ["class"]}},
        {"words": {"kind": "category", "fields": ["abc"]}},
        {"words": None},
    ),
    "USER_ID_FIELD": ("user_id", "item_id", "uid", None),
    "ITEM_ID_FIELD": ("item_id", "user_id", "asin", None),
    "TIME_FIELD": ("timestamp", "rating", "when", "user_id", None),
    "LABEL_FIELD": ("label", "rating", "user_id"),
    "seq_len": ({"user_id": 3}, {"stars": 2}),
    "alias_of_item_id": (["item_id"], ["user_id"], ["stars"]),
    "alias_of_user_id": (["item_id"], ["user_id"]),
    "additional_feat_suffix": ("ent", ["item"], ["inter"]),
    "preload_weight": ({"item_id": "class"}, {"stars": "x"}),
    "protocol": ("multimodal", "published", "recbole", "fair"),
    "preset": ("sports", "Sports", "auto", "none", "sport"),
    "variant": ("paper", "released", "best"),
    "MAX_ITEM_LIST_LENGTH": (1, 5, 0, -1),
    "field_separator": (",", "\t", ""),
    "seq_separator": (",", " ", ""),
    "encoding": ("utf-8", "latin-1", "utf-88"),
}


@dataclass(frozen=True)
class Draw:
    """A model and the configuration added to what it requires."""

    model: str
    values: tuple[tuple[str, object], ...]

    def __str__(self) -> str:
        return f"{self.model} {dict(self.values)!r}"


@dataclass(frozen=True)
class Outcome:
    """Outcome of a draw: ``finished``, ``refused`` (with the sentence) or a finding (the kind of error)."""

    kind: str
    said: str = ""

    @property
    def is_finding(self) -> bool:
        return self.kind not in ("finished", "refused")


def defaults_of(model: str) -> dict[str, object]:
    """All configuration keys that a draw may set for a model, with their defaults, None where there is none."""
    from recbole.config import Config
    from recbole.utils import argument_list

    with no_command_line():
        config = Config(model, "ml-100k", config_dict=_NO_NEGATIVES)
    listed = [name for part in vars(argument_list).values() if isinstance(part, list) for name in part]
    known = {*CHECKS, *_NEAR, *listed, *default_properties("overall"), *config.internal_config_dict}
    # derived by RecBole, or paths
    known -= {"MODEL_TYPE", "config_file", "data_path", "wandb_project"}
    return {key: config.internal_config_dict.get(key) for key in sorted(known)}


def neighbours(value: object) -> list:
    """Values of the same kind as a default, and almost of that kind."""
    if isinstance(value, bool):
        return [not value, value, str(value)]
    if isinstance(value, (int, float)):
        return [value, value / 2, type(value)(value * 2), type(value)(0), type(value)(1), str(value), 0.1]
    if isinstance(value, str):
        return [value, value[:-1], value.upper()]
    if isinstance(value, list):
        return [value, value[:1], value * 2, [*value, None], str(value)]
    return [value]


def draws(models: tuple[str, ...] = tuple(MODELS)) -> st.SearchStrategy[Draw]:
    """A strategy for draws: of three values, one is arbitrary, and the others are valid or almost valid."""

    def of_key(key: str, default: object) -> st.SearchStrategy:
        large = () if any(part in key.lower() for part in _REPEATED) else _LARGE
        anything = st.sampled_from(_JUNK + large)
        nearly = st.sampled_from(_NEAR.get(key) or neighbours(default))
        return st.one_of(nearly, nearly, anything)

    def of_model(model: str) -> st.SearchStrategy[Draw]:
        defaults = defaults_of(model)
        own = sorted(set(default_properties("model", model)) | (set(defaults) - set(defaults_of("BPR"))))
        key = st.one_of(
            st.sampled_from(sorted(defaults)), st.sampled_from(sorted(_NEAR)), *([st.sampled_from(own)] if own else [])
        )
        chosen = st.lists(key, min_size=1, max_size=3, unique=True)
        values = chosen.flatmap(
            lambda names: st.tuples(*(st.tuples(st.just(name), of_key(name, defaults.get(name))) for name in names))
        )
        return values.map(lambda pairs: Draw(model, pairs))

    return st.sampled_from(models).flatmap(of_model)


# ------------------------------------------------------------------------------------------------------------
# one draw


def write_data(root: Path) -> None:
    """Two datasets of the same 24 users and 30 items: RecBole's, with columns and a graph, and one with arrays."""
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}") for user in range(24) for item in rng.choice(30, 9, replace=False)]
    times = 1_600_000_000 + rng.permutation(len(rows)) * 60
    inter = [f"{u}\t{i}\t{rng.integers(1, 6)}\t{t}" for (u, i), t in zip(rows, times)]
    tables = {
        "inter": ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *inter],
        "item": ["item_id:token\tclass:token_seq", *(f"i{item}\tc{item % 4} d{item % 3}" for item in range(30))],
        "user": ["user_id:token\tage:token", *(f"u{user}\t{20 + user}" for user in range(24))],
        "kg": ["head_id:token\trelation_id:token\ttail_id:token"]
        + [f"e{item}\tr{item % 2}\te{(7 * item + 3) % 40}" for item in range(30)],
        "link": ["item_id:token\tentity_id:token", *(f"i{item}\te{item}" for item in range(30))],
    }
    for name, wanted in ((PLAIN, tables), (PREPARED, ("inter", "item"))):
        folder = root / name
        folder.mkdir(parents=True)
        for suffix in wanted:
            (folder / f"{name}.{suffix}").write_text("\n".join(tables[suffix]) + "\n", encoding="utf-8")
    for modality, width in (("image", 12), ("text", 7)):
        np.save(root / PREPARED / f"{PREPARED}.{modality}.npy", rng.normal(size=(30, width)).astype(np.float32))


class Hang(BaseException):
    """A draw exceeded its time limit."""


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Stop the block after that many seconds, on systems that have alarms."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number, frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(draw: Draw, data: Path) -> None:
    """Configure, read, split, train and test."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    dataset, needed = MODELS[draw.model]
    values = copy.deepcopy(_SMALL | {"data_path": str(data)} | needed | dict(draw.values))
    if isinstance(values["epochs"], int):
        values["epochs"] = min(values["epochs"], 2)
    with no_command_line(), user_errors_of_recbole():
        config = Config(draw.model, dataset, config_dict=values)
        init_seed(config["seed"], config["reproducibility"])
        whole = create_dataset(config)
        train, valid, test = data_preparation(config, whole)
        model = get_model(config["model"])(config, train._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        trainer.fit(train, valid, show_progress=config["show_progress"])
        trainer.evaluate(test, show_progress=config["show_progress"])


def outcome(draw: Draw, data: Path, limit: int = 60) -> Outcome:
    """Run a draw and return its outcome."""
    try:
        with (
            warnings.catch_warnings(),
            time_limit(limit),
            contextlib.redirect_stderr(open(os.devnull, "w", encoding="utf-8")),
        ):
            warnings.simplefilter("ignore")
            run(draw, data)
    except UserError as error:
        said = str(error)
        return Outcome("refused", said) if said and "\n" not in said else Outcome("sentence of several lines", said)
    except Hang:
        return Outcome("hang", f"more than {limit} s")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        place = error.__traceback__
        while place.tb_next:
            place = place.tb_next
        where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
        return Outcome(f"{type(error).__name__} in {where}", one_line(error)[:200])
    return Outcome("finished")


def survey(count: int, number: int, data: Path, limit: int = 60, models: tuple[str, ...] = tuple(MODELS)):
    """Yield ``count`` draws from the seed ``number`` with their outcomes."""
    found = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(draws(models))
    def collect(draw):
        found.append((draw, outcome(draw, data, limit)))

    collect()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=60, help="seconds after which a draw counts as hanging")
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["XDG_CACHE_HOME"] = folder
        write_data(Path(folder) / "data")
        models = tuple(options.models.split(","))
        found = survey(options.draws, options.seed, Path(folder) / "data", options.limit, models)
        os.chdir("/")
    findings = collections.defaultdict(list)
    for draw, end in found:
        if end.is_finding:
            findings[end.kind].append((draw, end.said))
    for kind, examples in sorted(findings.items(), key=lambda entry: -len(entry[1])):
        draw, said = min(examples, key=lambda example: len(str(example[0])))
        print(f"{len(examples):4} x {kind}: {said}\n       {draw}")
    kinds = collections.Counter("finding" if end.is_finding else end.kind for _, end in found)
    print(
        f"{len(found)} draws, seed {options.seed}: {kinds['finished']} finished, {kinds['refused']} refused in a "
        f"sentence, {kinds['finding']} findings of {len(findings)} kinds"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
