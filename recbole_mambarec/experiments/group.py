"""Many runs: models x datasets x seeds, or the lines of a group file; a recorded run is never repeated."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import yaml
from recbole.config import Config

from recbole_mambarec.cli import DEFAULT_DATASET, read_config_files
from recbole_mambarec.config import no_command_line
from recbole_mambarec.config_keys import keys_read
from recbole_mambarec.defaults import properties_folder
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.plan import DEFAULT_SEED, Run, resolve
from recbole_mambarec.experiments.run import Busy, execute_apart
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.mistakes import user_errors_of_recbole
from recbole_mambarec.patience import FIRST_IS_BEST, first_is_best
from recbole_mambarec.protocol import MULTIMODAL
from recbole_mambarec_command.command import run_script
from recbole_mambarec_command.command_line import example, termination_as_interrupt, typed
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.options import configuration
from recbole_mambarec_common.terminal import table

DEFAULT_RUNS = "results/runs.jsonl"
#: keys that decide what is measured: rows with different values do not belong in one table
MEASURED_BY = (
    *("eval_args", "metrics", "topk", "valid_metric", "repeatable", "benchmark_filename", "rm_dup_inter", "threshold"),
    *(
        "new_items",
        "rank_items",
        "filter_inter_by_user_or_item",
        "user_inter_num_interval",
        "item_inter_num_interval",
        "val_interval",
    ),
)
# --seeds=999 would be a thousand runs of each model, which nobody wants
_MOST_SEEDS = 100
# options of RecBole's script of the same name for which there is another command
_OPTIONS_OF_REPORT = ("valid_latex", "test_latex")


# ------------------------------------------------------------------------------------------------------------
# what is to be run


def seeds(text: str | None) -> list[int]:
    """The option ``--seeds``: a number of seeds, counted from the default one, or a list of them (``7,`` is a list).

    Raises:
        UserError: it is neither, a seed is listed twice, or the number is so large that it must be meant as a seed.
    """
    if text is None:
        return [DEFAULT_SEED]
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"--seeds={text} is not understood: give a number of seeds (5) or distinct seeds (1,2,3)")
    if "," in text:
        return [int(part) for part in parts]
    if int(text) < 1:
        raise UserError("--seeds=0 leaves nothing to run")
    if int(text) > _MOST_SEEDS:
        raise UserError(f"--seeds={text} asks for {text} seeds: to run the single seed {text}, use --seed={text}")
    return [DEFAULT_SEED + number for number in range(int(text))]


def read_group(name: str) -> tuple[str, dict[str, tuple[str, dict]]]:
    """A group file: its name, and label -> (model, overrides) for each of its lines.

    Args:
        name: path of a YAML file, or name of a file that comes with this package::

            model: MambaRec
            runs:
              full: {}
              without MMD: {mmd_weight: 0.0}
              a baseline: {model: BPR}

    Raises:
        UserError: there is no such file, or its content is not of this form.
    """
    shipped = properties_folder() / "group"
    path = Path(name) if Path(name).is_file() else shipped / f"{name}.yaml"
    if not path.is_file():
        have = ", ".join(sorted(file.stem for file in shipped.glob("*.yaml")))
        raise UserError(f"group '{name}' not found: give the path of a YAML file, or one of {have}")
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a YAML file ({' '.join(str(error).split())})") from None
    lines = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(lines, dict) or not lines or set(content) - {"model", "runs"}:
        raise UserError(
            f"{path} is not a group file: it must have 'runs', a mapping of labels to overrides, and may have 'model'"
        )
    planned = {}
    for label, overrides in lines.items():
        if not isinstance(overrides, dict):
            raise UserError(f"{path}: the overrides of '{label}' must be a mapping, {{}} for none, got {overrides!r}")
        model = overrides.get("model", content.get("model"))
        if not isinstance(model, str):
            raise UserError(f"{path}: '{label}' has no model: name one in this line or for the whole file")
        planned[str(label)] = model, {key: value for key, value in overrides.items() if key != "model"}
    return path.stem, planned


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses repeated keys, where the earlier value would be lost."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=deep) for key, _ in node.value]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"'{repeated[0]}' is listed twice", node.start_mark)
        return super().construct_mapping(node, deep)


def plan(
    lines: dict[str, tuple[str, dict]],
    datasets: list[str],
    seeds: list[int],
    overrides: dict | None = None,
    group: str = "comparison",
) -> list[Run]:
    """All runs, all models with the first seed before the second, so that an unfinished group is already useful.

    Args:
        lines: label -> (model, its own overrides, which take precedence over ``overrides``).
        overrides: configuration for all runs. A key that only some of the models read is given to these models; one
            that none reads is given to all, and refused or warned about as in a single run.

    Raises:
        UserError: a line cannot be run on a dataset; nothing has been run by then.
    """
    # for RecBole's models, too, whose default would be RecBole's protocol: these are rows of one table
    common = {"protocol": MULTIMODAL} | (overrides or {})
    first = []
    for dataset in datasets:
        read = {model: _keys_read(model, dataset, common) for model in {model for model, _ in lines.values()}}
        read_by_any = set().union(*read.values())
        for label, (model, own) in lines.items():
            given = {key: value for key, value in common.items() if key in read[model] or key not in read_by_any}
            try:
                first.append(resolve(model, dataset, seeds[0], given | own, label=label, group=group))
            except UserError as error:
                raise UserError(f"{label} on {dataset}: {error}") from None
    return [run.with_seed(seed) for seed in seeds for run in first]


def _keys_read(model: str, dataset: str, common: dict) -> set[str]:
    """The keys that a model reads; the keys of ``common`` if the model cannot be configured."""
    location = {key: common[key] for key in ("data_path", "protocol") if key in common}
    try:
        with no_command_line():
            return keys_read(Config(model, dataset, config_dict=location))
    except Exception:  # `resolve` will raise it again, with an explanation
        return set(common)


class Measured(Protocol):
    """A run, or several that differ in nothing but their seed."""

    @property
    def label(self) -> str: ...

    @property
    def dataset(self) -> str: ...

    @property
    def config(self) -> dict: ...


def measurement_differences(runs: Sequence[Measured]) -> list[str]:
    """Sentences about runs on the same dataset that are not measured in the same way."""
    notes = []
    for run in {(run.dataset, run.label): run for run in runs}.values():
        other = next(first for first in runs if first.dataset == run.dataset)
        keys = [key for key in MEASURED_BY if run.config.get(key) != other.config.get(key)]
        if keys:
            notes.append(
                f"{run.label} and {other.label} are not measured in the same way on {run.dataset} "
                f"({', '.join(keys)}): their rows cannot be compared"
            )
    return notes


# ------------------------------------------------------------------------------------------------------------
# running it


def run_all(runs: list[Run], path: str | Path, per_user: bool = True, execute: Callable | None = None) -> list[Record]:
    """Execute the runs that are not recorded in ``path`` as finished, one after another.

    If a run fails, the others still run, and the next call tries it again. A finished run that is recorded under
    another group or label is recorded under this one as well, not repeated.

    Args:
        execute: executes one run; default: :func:`~recbole_mambarec.experiments.run.execute_apart`.

    Returns:
        The records, in the order of ``runs``; a run that another process is executing has none.
    """
    path, execute = Path(path), execute or execute_apart
    store.check_writable(path)
    before = store.read(path) if path.exists() else []
    finished = store.finished(before)
    names = {(record.key, record.group, record.label) for record in before if record.is_finished}
    records = []
    for number, run in enumerate(runs, start=1):
        where = f"[{number}/{len(runs)}] {run}"
        earlier = finished.get(run.key)
        if earlier is not None:
            if (earlier.key, run.group, run.label) not in names:
                earlier = replace(earlier, group=run.group, label=run.label)
                store.append(path, earlier)
            records.append(earlier)
            print(f"{where}: already recorded")
            continue
        print(f"{where}: started", flush=True)
        try:
            record = execute(run, path, per_user)
        except Busy:
            print(f"{where}: another process is running it and will record it")
            continue
        records.append(record)
        if record.is_finished:
            finished[run.key] = record
            names.add((run.key, run.group, run.label))
            metric = run.config["valid_metric"]
            score = f"validation {metric} {record.valid[metric.lower()]:.4f}"
            best = f"after epoch {record.best_epoch + 1} of {record.epochs}"
            print(f"{where}: {score} {best}, {record.seconds / 60:.1f} minutes", flush=True)
            if first_is_best(record.curve, record.best_epoch):
                print(f"{where}: {FIRST_IS_BEST}", flush=True)
        else:
            print(f"{where}: failed: {record.error}", flush=True)
    return records


def summary(runs: list[Run], records: list[Record]) -> str:
    """A line per dataset and label (seeds, the metric that chose the epochs, minutes, memory), then the failures.

    Values are means over seeds, with the standard deviation if there are several. The records have all metrics.
    """
    by_line: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        by_line.setdefault((record.dataset, record.label), []).append(record)
    tested = {mask for record in records for mask in record.test}
    masks = [*store.MASKS, *(mask for mask in (store.UNMASKED,) if mask in tested)]
    lines = []
    for (dataset, label), group in {(run.dataset, run.label): run for run in runs}.items():
        done = [record for record in by_line.get((dataset, label), []) if record.is_finished]
        metric = group.config["valid_metric"].lower()
        planned = sum((run.dataset, run.label) == (dataset, label) for run in runs)
        columns = [[record.valid[metric] for record in done]]
        columns += [[record.test[m][metric] for record in done if m in record.test] for m in masks]
        costs = [[record.seconds / 60 for record in done], [record.peak_memory_gib for record in done]]
        lines.append(
            [
                *(label, dataset, f"{len(done)}/{planned}", metric, *(_mean(values, 4) for values in columns)),
                *(_mean(values, 1, spread=False) for values in costs),
            ]
        )
    header = ["model", "dataset", "seeds", "metric", "valid", *(f"test, {mask} masked" for mask in masks)]
    failed = [
        f"failed: {record.label}, {record.dataset}, seed {record.seed}: {record.error}"
        for record in records
        if not record.is_finished
    ]
    return "\n".join([table([*header, "minutes", "GiB"], lines), *failed])


def _mean(values: list[float], places: int, spread: bool = True) -> str:
    if not values:
        return "-"
    text = f"{statistics.fmean(values):.{places}f}"
    return f"{text} ± {statistics.stdev(values):.{places}f}" if spread and len(values) > 1 else text


def main(argv: list[str] | None = None, prog: str = "run_recbole_group.py") -> int:
    """Command line of ``recbole-mambarec compare`` and ``run_recbole_group.py``.

    Returns:
        Exit status: 1 if a run failed, else 0.

    Raises:
        UserError: an option is faulty, or a run cannot be configured; nothing has been run by then.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train and test several models and record every run; a recorded run is never repeated.",
        epilog="Any other --key=value sets a configuration key for all runs. "
        f"Example: {example(prog)} --models=BPR,LightGCN,MambaRec --dataset=baby --seeds=3 --epochs=100",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--models", "--model", "--model_list", "-m", help="models, separated by commas")
    add("--group", "-g", help="instead of models: YAML file of labelled overrides, or the name of a shipped one")
    add("--datasets", "--dataset", "-d", help=f"datasets, separated by commas (default {DEFAULT_DATASET})")
    add("--label", help="added to the names of the models: with --label=paper, BPR is recorded as 'BPR (paper)'")
    add("--seeds", help=f"number of seeds, counted from {DEFAULT_SEED}, or a list (1,2,3)")
    add("--config_files", help="YAML files, separated by blanks")
    add("--runs", default=DEFAULT_RUNS, help="file of records (default %(default)s)")
    add("--per_user", choices=("True", "False"), default="True", help="keep results per user (default %(default)s)")
    options, rest = parser.parse_known_args(argv)
    overrides: dict = configuration(argv, rest)
    for key in _OPTIONS_OF_REPORT:
        if key in overrides:
            raise UserError(f"--{key} is not an option here: `{typed('report')}` writes the tables")
    _, settings = read_config_files(options.config_files)
    if options.group is None and options.models is None:
        options.models = settings.get("model")
    if bool(options.models) == bool(options.group):
        raise UserError("name either the models with --models=A,B or a file of runs with --group=FILE")
    if options.group:
        group, lines = read_group(options.group)
    else:
        group, lines = "comparison", {model: (model, {}) for model in _names(options.models, "--models")}
    if options.label:
        lines = {f"{name} ({options.label})": line for name, line in lines.items()}
    if "seed" in overrides and options.seeds is not None:
        raise UserError("--seed and --seeds exclude each other: name several seeds with --seeds=1,2,3")
    settings |= overrides
    one = settings.pop("seed", None)
    if not (one is None or str(one).isdecimal()):
        raise UserError(f"seed: {one} is not understood: give one whole number, or several with --seeds=1,2,3")
    chosen = seeds(f"{one}," if options.seeds is None and one is not None else options.seeds)
    datasets = _names(options.datasets or settings.get("dataset") or DEFAULT_DATASET, "--dataset")
    settings = {key: value for key, value in settings.items() if key not in ("model", "dataset")}
    per_user = options.per_user == "True"
    if per_user:
        need("polars", "compare")
    runs = plan(lines, datasets, chosen, settings, group)

    notes = measurement_differences(runs)
    print(*notes, sep="\n", end="\n" if notes else "")
    with termination_as_interrupt(), user_errors_of_recbole():
        try:
            records = run_all(runs, options.runs, per_user)
        except KeyboardInterrupt:
            print(f"\nstopped: the same command continues; finished runs are in {options.runs}")
            raise
    print("", summary(runs, records), *notes, f"all metrics: {options.runs}", sep="\n")
    return int(any(not record.is_finished for record in records))


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"{option}={text} " + ("names one of them twice" if names else "is empty"))
    return names


if __name__ == "__main__":
    run_script("compare", "python -m recbole_mambarec.experiments.group")
