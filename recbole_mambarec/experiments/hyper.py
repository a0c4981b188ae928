"""A whole search: choose a trial on the validation split, test it, write its configuration."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from recbole_mambarec.cli import DEFAULT_DATASET, DEFAULT_MODEL, read_config_files
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.plan import Run, resolve
from recbole_mambarec.experiments.processes import call_apart
from recbole_mambarec.experiments.run import execute_apart
from recbole_mambarec.experiments.search import Search, describe, shipped_space
from recbole_mambarec.experiments.space import read_space
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.experiments.trial import evaluate
from recbole_mambarec.experiments.tuning import ALGORITHMS, Tuning, suggestion
from recbole_mambarec.mistakes import user_errors_of_recbole
from recbole_mambarec_command.command import run_script
from recbole_mambarec_command.command_line import example, termination_as_interrupt, typed
from recbole_mambarec_common.files import atomic_file, locked
from recbole_mambarec_common.options import configuration

if TYPE_CHECKING:
    from recbole_mambarec.experiments.on_ray import RaySettings

TOOLS = ("hyperopt", "ray")
DEFAULT_FOLDER = "tuning"


def tune(
    model: str,
    dataset: str,
    overrides: dict | None = None,
    config_files: list[str] | None = None,
    params_file: str | Path | None = None,
    algo: str = "exhaustive",
    max_evals: int = 100,
    early_stop: int | None = None,
    jobs: int | None = None,
    root: str | Path = DEFAULT_FOLDER,
    progress: bool = True,
    on_ray: RaySettings | None = None,
) -> tuple[Record, Tuning]:
    """Search, choose on the validation split, then test the chosen point.

    Args:
        overrides, config_files: as for :func:`~recbole_mambarec.experiments.plan.resolve`.
        params_file: the search space; by default the one that comes with the model.
        algo, max_evals, early_stop: see :class:`~recbole_mambarec.experiments.tuning.Tuning`.
        jobs: trials at a time; by default one, or on ray as many as the cluster has room for.
        root: folder in which the search's folder is created; the same search finds its records there.
        on_ray: run the trials on ray instead of in processes of this machine.

    Returns:
        The record of the chosen trial with its test scores, and the search.

    Raises:
        UserError: the space, the configuration or the data are faulty, another process is running the same search, or
            no trial has finished.
        KeyboardInterrupt: the next call continues the search.
    """
    for name, number in (("jobs", jobs), ("max_evals", max_evals), ("early_stop", early_stop)):
        if number is not None and number < 1:
            raise UserError(f"{name} must be a whole number from 1, got {number}")
    base = resolve(model, dataset, overrides=overrides, config_files=config_files)
    search = Search(base, read_space(params_file or shipped_space(model)), root)
    suggestion(algo, search.space)  # a faulty algorithm is refused before there is a folder
    search.folder.mkdir(parents=True, exist_ok=True)
    with open(search.folder / "lock", "ab") as lock, contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise UserError(f"another process is running this search in {search.folder}: wait for it") from None
        stops_early = on_ray is not None and on_ray.grace > 0
        tuning = Tuning(search, algo, max_evals, early_stop, accept_stopped=stops_early, progress=progress)
        tuning.announce()
        if on_ray is None:
            tuning.run(jobs or 1)
        else:
            from recbole_mambarec.experiments.on_ray import run_on_ray

            run_on_ray(tuning, jobs, on_ray)
        record = _tested(tuning)
        write_chosen(tuning, search.folder / "best.yaml")
        shutil.rmtree(search.folder / "running", ignore_errors=True)
        return record, tuning


def _tested(tuning: Tuning) -> Record:
    """The record of the best trial with its test scores, which are computed once."""
    best, search = tuning.best, tuning.search
    if best is None:
        last = f": {tuning.failures[-1]}" if tuning.failures else ""
        raise UserError(f"none of {tuning.ended} trials has finished{last} (see {search.folder / 'logs'})")
    if search.chosen_file.is_file():
        tested = store.finished(store.read(search.chosen_file)).get(best.key)
        if tested is not None:
            return tested
    run, weights, log = search.run(best.point), search.weights(best.key), search.log(best.key)
    if not weights.is_file():
        tuning.bar.write("the weights of the best trial are not on this machine: it is trained again, then tested")
        record = execute_apart(run, search.chosen_file, per_user=False)
        if not record.is_finished:
            raise UserError(f"the test of the best trial failed: {record.error}")
        return record
    try:
        scores = call_apart(evaluate, (run, weights), log)
    except UserError as error:
        raise UserError(f"the test of the best trial failed: {error} (see {log})") from error
    record = replace(best, test=scores)
    store.append(search.chosen_file, record)
    return record


def chosen_configuration(tuning: Tuning) -> dict:
    """The configuration of the best trial: model, dataset, seed, the user's settings and the chosen ones."""
    run: Run = tuning.search.run(tuning.best.point)
    return {"model": run.model, "dataset": run.dataset, "seed": run.seed} | run.overrides


def write_chosen(tuning: Tuning, path: str | Path) -> None:
    """Write :func:`chosen_configuration` as a file for ``--config_files``."""
    base, best = tuning.search.base, tuning.best
    caption = (
        f"# {base.model} on {base.dataset}: the best of {len(tuning.records)} trials by {base.config['valid_metric']} "
        f"on the validation split, {best.score:.4f}\n"
    )
    text = yaml.safe_dump(chosen_configuration(tuning), sort_keys=False, allow_unicode=True)
    with atomic_file(path) as temporary:
        temporary.write_text(caption + text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------
# command line


def main(argv: list[str] | None = None, prog: str = "run_hyper.py") -> int:
    """Command line of ``recbole-mambarec tune`` and ``run_hyper.py``.

    Raises:
        UserError: an option is faulty, or :func:`tune` raises it.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Search for hyper-parameters on the validation split; a recorded trial is never repeated.",
        epilog="Any other --key=value sets a configuration key for all trials. "
        f"Example: {example(prog)} --model=MambaRec --dataset=baby --jobs=2 --epochs=100",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", "-m", help=f"model name (default {DEFAULT_MODEL})")
    add("--dataset", "-d", help=f"dataset name (default {DEFAULT_DATASET})")
    add("--config_files", help="YAML files, separated by blanks")
    add("--params_file", help="search space (default: the one that comes with the model)")
    add("--algo", default="exhaustive", help=f"one of {', '.join(ALGORITHMS)} (default %(default)s)")
    add("--max_evals", type=int, default=100, help="trials in all, unless the search is exhaustive (default 100)")
    add("--early_stop", type=int, help="stop after this many trials without a better one (default: never)")
    add("--jobs", "-j", type=int, help="trials at a time, if memory allows (default 1; on ray: as many as fit)")
    add("--tuning_dir", default=DEFAULT_FOLDER, help="folder of all searches (default %(default)s)")
    add("--write_best", "--write-best", metavar="FILE", help="also write the chosen configuration to this file")
    add("--output_file", help="write all trials to this file as text")
    add("--display_file", help="plot the scores of the trials to this file (HTML, needs plotly)")
    add("--tool", default="hyperopt", help="hyperopt: processes on this machine (default); ray: a ray cluster")
    ray = parser.add_argument_group("with --tool=ray")
    ray.add_argument("--address", help="of a running cluster (auto: the one on this machine; default: start one)")
    ray.add_argument("--trial_cpus", type=float, default=1, help="cores per trial (default 1)")
    ray.add_argument("--trial_gpus", type=float, default=0, help="GPUs per trial, possibly a fraction (default 0)")
    ray.add_argument(
        "--grace", type=int, default=10, help="epochs before a trial may be stopped early; 0: never (default 10)"
    )
    ray.add_argument(
        "--halving", type=int, default=3, help="one in this many trials continues at each rung (default 3)"
    )
    options, rest = parser.parse_known_args(argv)
    overrides: dict = configuration(argv, rest)
    files, contents = read_config_files(options.config_files)
    tool = options.tool.lower()
    if tool not in TOOLS:
        raise UserError(f"tool '{options.tool}' is unknown: use one of {', '.join(TOOLS)}")
    on_ray = None
    if tool == "ray":
        from recbole_mambarec.experiments.on_ray import RaySettings

        on_ray = RaySettings(options.address, options.trial_cpus, options.trial_gpus, options.grace, options.halving)
    written = [name for name in (options.write_best, options.output_file, options.display_file) if name]
    with termination_as_interrupt(), user_errors_of_recbole():
        for name in written:
            store.check_writable(name)
        try:
            record, tuning = tune(
                options.model or contents.get("model") or DEFAULT_MODEL,
                options.dataset or contents.get("dataset") or DEFAULT_DATASET,
                overrides,
                files,
                options.params_file,
                options.algo.lower(),
                options.max_evals,
                options.early_stop,
                options.jobs,
                options.tuning_dir,
                progress=overrides.get("show_progress") != "False",
                on_ray=on_ray,
            )
        except KeyboardInterrupt:
            print(f"\nstopped: the same command continues; finished trials are in {options.tuning_dir}")
            raise
        print(f"best of {len(tuning.records)} trials: {describe(tuning.best.point)}")
        _print_scores("best valid result", record.valid)
        for mask, scores in record.test.items():
            _print_scores(f"test, {mask} masked", scores)
        if options.write_best:
            write_chosen(tuning, options.write_best)
        if options.output_file:
            tuning.export_result(options.output_file)
        if options.display_file:
            tuning.display_file = options.display_file
            tuning.plot_hyper()
    best_file = options.write_best or tuning.search.folder / "best.yaml"
    print(f"to use it: {typed('run')} --config_files={best_file}")
    return 0


def _print_scores(name: str, scores: dict[str, float]) -> None:
    print(f"{name:24} {'    '.join(f'{metric}: {value:.4f}' for metric, value in scores.items())}")


if __name__ == "__main__":
    run_script("tune", "python -m recbole_mambarec.experiments.hyper")
