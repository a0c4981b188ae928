"""Hyper-parameter search: RecBole's ``HyperTuning`` with trials in fresh processes, each recorded as it ends.

A search has a folder, named after its model, its dataset and a key of all else that its trials share (configuration,
seed, content of the data):

===============  ======================================================================================================
``trials.jsonl`` one record per trial (:mod:`~recbole_mambarec.experiments.store`, without test scores) with
                 ``point`` (what was tuned), ``score`` (of the validation metric), ``stopped`` (given up early),
                 ``memory_gib`` and ``wall_seconds``
``<key>.pth``    weights of the best trial
``chosen.jsonl`` the record of the best trial with its test scores: the only place where the test split is looked at
``best.yaml``    its configuration, for ``--config_files``
``logs/``        what each trial has printed
``running/``     checkpoints of unfinished trials
===============  ======================================================================================================

A trial that is on record is not made again, whichever space it was found through; one that failed is.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import yaml
from recbole.config import Config
from recbole.trainer import HyperTuning
from tqdm import tqdm

from recbole_mambarec.config import known_keys, properties_folder
from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.processes import DeviceGate, MemoryGate, Pool
from recbole_mambarec.experiments.run import NO_EFFECT, Run, execute_apart, failure, no_command_line, resolve
from recbole_mambarec.experiments.space import Space, read_space
from recbole_mambarec.experiments.trial import test, trial
from recbole_mambarec.extras import need
from recbole_mambarec.files import atomic_file, locked
from recbole_mambarec.memory import available_gib, held_gib, total_gib

if TYPE_CHECKING:
    from recbole_mambarec.experiments.on_ray import RaySettings

ALGORITHMS = ("exhaustive", "random", "bayes")
# what is measured: scores under different values cannot be compared
_MEASURE = ("metrics", "topk", "valid_metric", "eval_args", "repeatable", "benchmark_filename", "val_interval")
# proposals that may repeat a known point before chance alone proposes, and before the search is at its end
_REPEATS = 100
# failures with one and the same sentence, and no success, that end a search
_SAME_FAILURES = 3


class Search:
    """What is searched, and the record of what has been tried.

    Args:
        base: the run that the trials vary.
        space: what they vary.
        root: where the search's folder is made.

    Raises:
        UserError: a parameter of the space is unknown, cannot be tuned, was given a fixed value as well, or has an
            option that the configuration refuses.
    """

    def __init__(self, base: Run, space: Space, root: str | Path = "tuning") -> None:
        self.base, self.space = base, space
        self.folder = Path(root) / f"{base.model}-{base.dataset}-{base.key[:8]}"
        self.metric = str(base.config["valid_metric"]).lower()
        self.bigger = bool(base.config["valid_metric_bigger"])
        self._check_space()

    def _check_space(self) -> None:
        with no_command_line():
            known = known_keys(Config(self.base.model, self.base.dataset, config_dict=dict(self.base.given)))
        for parameter in self.space.parameters:
            name = parameter.name
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
                raise UserError(
                    f"parameter '{name}' of the search space is no configuration key of {self.base.model}"
                    + (f": did you mean '{near[0]}'?" if near else ": remove its line")
                )
            if name in NO_EFFECT or name in _MEASURE:
                why = "decides what is measured" if name in _MEASURE else "is no setting of the model or its training"
                raise UserError(f"'{name}' cannot be tuned: it {why}; remove its line from the search space")
            if name in self.base.overrides:
                raise UserError(f"{name} is given and tuned: leave --{name} out, or its line in the search space")
            for drawn in range(len(parameter.values)) if parameter.kind == "choice" else ():
                self.run({name: parameter.value(drawn)})

    def run(self, point: dict) -> Run:
        """The trial at a point."""
        base = self.base
        run = resolve(base.model, base.dataset, base.seed, base.given | point, label=describe(point), group="tuning")
        return replace(run, checkpoint_dir=str(self.folder / "running"))

    def weights(self, key: str) -> Path:
        """Where the weights of the run with this key are kept while it is the best."""
        return self.folder / f"{key[:16]}.pth"

    def log(self, key: str) -> Path:
        """What the run with this key has printed."""
        return self.folder / "logs" / f"{key[:16]}.log"

    @property
    def trials_file(self) -> Path:
        """The record of all trials."""
        return self.folder / "trials.jsonl"

    @property
    def chosen_file(self) -> Path:
        """The record of tested ones."""
        return self.folder / "chosen.jsonl"

    def recorded(self, stopped: bool = False) -> list[dict]:
        """Trials on record that lie in the space, with their ``point`` in its terms, in order.

        Args:
            stopped: count those that were given up early.
        """
        found = {}
        for record in store.read(self.trials_file) if self.trials_file.is_file() else ():
            point = self._point(record)
            if point is None or record["status"] != "finished" or (record["stopped"] and not stopped):
                continue
            found[identity(point)] = record | {"point": point}
        return list(found.values())

    def _point(self, record: dict) -> dict | None:
        """Where a recorded trial lies in the space; None if it does not."""
        names = [parameter.name for parameter in self.space.parameters]
        config, tuned = self.base.config, record["point"]
        if any(tuned[name] != config.get(name) for name in tuned if name not in names):
            return None
        point = {name: tuned.get(name, config.get(name)) for name in names}
        try:
            for parameter in self.space.parameters:
                parameter.drawn(point[parameter.name])
        except (ValueError, TypeError):
            return None
        return point

    def better(self, score: float, than: float) -> bool:
        """Whether a score beats another one."""
        return score > than if self.bigger else score < than


def describe(point: dict) -> str:
    """``a=1, b=2``."""
    return ", ".join(f"{name}={value}" for name, value in point.items())


def identity(point: dict) -> str:
    """What makes two points the same."""
    return store.run_key("", point, 0, "")


@dataclass
class _Running:
    """What is known of a trial that has not ended."""

    attempt: Attempt
    started: float = field(default_factory=perf_counter)
    memory_gib: float = 0.0
    progress: str = "starts"

    def hear(self, report: dict, metric: str) -> None:
        self.memory_gib = max(self.memory_gib, report["memory_gib"])
        self.progress = f"epoch {report['epoch']}, {report['valid'][metric]:.4f}"

    def __str__(self) -> str:
        return f"#{self.attempt.number + 1} {self.progress}"


class Attempt(NamedTuple):
    """A trial that is to be made: hyperopt's number of it, where it lies, and the run it is."""

    number: int
    point: dict
    run: Run


class Tuning(HyperTuning):
    """RecBole's ``HyperTuning`` asked for one point at a time and told the result, so that trials can run anywhere.

    What differs from RecBole's: an exhaustive search goes through its grid in order (RecBole draws points at random
    until 1000 in a row are known, which misses some of a large grid) and does not stop early unless it is told to; a
    point is never proposed twice; the test split is not evaluated; a failed trial does not end the search.

    Args:
        algo: ``exhaustive``, ``random`` or ``bayes`` (hyperopt's tree of Parzen estimators).
        max_evals: trials in all, those on record included; an exhaustive search makes all.
        early_stop: stop after so many trials in a row without a better one; None: never.
        accept_stopped: count trials on record that were given up early.

    Raises:
        UserError: hyperopt is missing, or the algorithm does not fit the space.
    """

    def __init__(
        self,
        search: Search,
        algo: str = "exhaustive",
        max_evals: int = 100,
        early_stop: int | None = None,
        accept_stopped: bool = False,
        progress: bool = True,
    ) -> None:
        hyperopt = need("hyperopt", "hyperopt")
        if algo not in ALGORITHMS:
            raise UserError(f"search algorithm '{algo}' is unknown: use one of {', '.join(ALGORITHMS)}")
        suggest = _in_order(search.space) if algo == "exhaustive" else algo
        super().__init__(trial, params_dict=search.space.as_dict(), algo=suggest, early_stop=early_stop or max_evals)
        size = search.space.size
        self.search, self.exhaustive = search, algo == "exhaustive"
        self.max_evals = size if self.exhaustive else min(max_evals, size or max_evals)
        self.patience = early_stop
        self.model = search.base.model
        self.records: list[dict] = []
        self.failures: list[str] = []
        self._seen: set[str] = set()
        self._since_best = 0
        self._trials = hyperopt.Trials()
        self._documents: dict[int, dict] = {}
        self._domain = hyperopt.base.Domain(trial, self.space)
        for record in search.recorded(stopped=accept_stopped):
            self._learn(record)
        self.bar = tqdm(total=self.max_evals, initial=len(self.records), unit="trial", disable=not progress)

    # ------------------------------------------------------------------ ask and tell

    @property
    def best(self) -> dict | None:
        """The record of the best trial that ran to its end; of equal ones, that of the first."""
        whole = [record for record in self.records if not record["stopped"]]
        return max(whole, key=lambda record: self._gain(record["score"]), default=None)

    def ask(self) -> Attempt | None:
        """The next trial to make; None where there is none (for now or at all)."""
        from hyperopt import rand

        if self.patience is not None and self._since_best >= self.patience:
            return None
        for repeat in itertools.count():
            if len(self._seen) >= self.max_evals or (repeat >= 2 * _REPEATS and not self.exhaustive):
                return None
            (number,) = self._trials.new_trial_ids(1)
            suggest = self.algo if self.exhaustive or repeat < _REPEATS else rand.suggest
            documents = suggest([number], self._domain, self._trials, self.search.base.seed + number)
            if not documents:
                return None
            drawn = documents[0]["misc"]["vals"]
            point = {p.name: p.value(drawn[p.name][0]) for p in self.search.space.parameters}
            if identity(point) in self._seen:
                continue
            self._propose(number, documents[0], point)
            return Attempt(number, point, self.search.run(point))

    def tell(self, attempt: Attempt, record: dict, wall_seconds: float, memory_gib: float, stopped: bool = False) -> None:
        """A trial has ended: ``record`` is what it returned."""
        previous = self.best
        record |= {"point": attempt.point, "score": record["valid"][self.search.metric], "stopped": stopped}
        self._write(record, wall_seconds, memory_gib)
        self._succeed(attempt.number, record)
        worse = previous if self.best is record else record
        if worse is not None:
            self.search.weights(worse["key"]).unlink(missing_ok=True)
        self._say(record)

    def tell_failure(self, attempt: Attempt, sentence: str, wall_seconds: float, memory_gib: float = 0.0) -> None:
        """A trial has failed.

        Raises:
            UserError: so have those before it, with the same sentence.
        """
        record = failure(attempt.run, sentence) | {"point": attempt.point, "score": None, "stopped": False}
        self._write(record, wall_seconds, memory_gib)
        self._close(attempt.number, {"status": "fail"})
        self.failures.append(sentence)
        self.bar.update()
        self.bar.write(f"trial {self._ended} of {self.max_evals}: {describe(attempt.point)}: failed: {sentence}")
        if not self.records and self.failures[-_SAME_FAILURES:] == [sentence] * _SAME_FAILURES:
            raise UserError(f"the first {_SAME_FAILURES} trials failed alike: {sentence}")

    def _gain(self, score: float) -> float:
        return score if self.search.bigger else -score

    def _write(self, record: dict, wall_seconds: float, memory_gib: float) -> None:
        record |= {"wall_seconds": round(wall_seconds, 1), "memory_gib": round(memory_gib, 3)}
        store.append(self.search.trials_file, record)

    def _propose(self, number: int, document: dict, point: dict) -> None:
        self._trials.insert_trial_docs([document])
        self._trials.refresh()
        self._documents[number] = document
        self._seen.add(identity(point))

    def _close(self, number: int, result: dict) -> None:
        """Tell hyperopt."""
        from hyperopt import JOB_STATE_DONE

        self._documents.pop(number).update(result=result, state=JOB_STATE_DONE)
        self._trials.refresh()

    def _learn(self, record: dict) -> None:
        """Take over a trial from the record, as if it had been made now."""
        drawn = {p.name: p.drawn(record["point"][p.name]) for p in self.search.space.parameters}
        (number,) = self._trials.new_trial_ids(1)
        self._propose(number, _document(number, drawn, self._domain, self._trials), record["point"])
        self._succeed(number, record)

    def _succeed(self, number: int, record: dict) -> None:
        self._close(number, {"status": "ok", "loss": -self._gain(record["score"])})
        self._count(record)

    def _count(self, record: dict) -> None:
        """Keep what RecBole's class keeps."""
        self.records.append(record)
        self._since_best = 0 if self.best is record else self._since_best + 1
        if self.best is not None:
            self.best_score, self.best_params = self.best["score"], self.best["point"]
        self.params_list.append(describe(record["point"]))
        self.score_list.append(record["score"])
        self.params2result[describe(record["point"])] = {"best_valid_result": record["valid"], "test_result": None}

    # ------------------------------------------------------------------ progress

    @property
    def _ended(self) -> int:
        return len(self.records) + len(self.failures)

    def announce(self) -> None:
        """Say what is going to happen."""
        base, known = self.search.base, len(self.records)
        line = f"{self.max_evals} trials of {base.model} on {base.dataset}, in {self.search.folder}"
        self.bar.write(f"{line}: {known} are on record" if known else line)

    def _say(self, record: dict) -> None:
        """One line per trial."""
        best, metric = self.best, self.search.base.config["valid_metric"]
        parts = [f"{metric} {record['score']:.4f} at epoch {record['best_epoch']} of {record['epochs']}"]
        parts[0] += ", stopped early" if record["stopped"] else ""
        if best is record:
            parts.append("the best so far")
        elif best is not None:
            parts.append(f"best {best['score']:.4f} ({describe(best['point'])})")
        parts.append(duration(record["wall_seconds"]))
        left = self.time_left()
        if left:
            parts.append(f"about {duration(left)} left")
        self.bar.update()
        self.bar.write(f"trial {self._ended} of {self.max_evals}: {describe(record['point'])}: {', '.join(parts)}")

    def time_left(self) -> float:
        """Seconds until the last trial, if the next ones take as long as those so far."""
        seconds = [record["wall_seconds"] for record in self.records]
        return sum(seconds) / len(seconds) * max(0, self.max_evals - self._ended) / self.jobs

    # ------------------------------------------------------------------ on this machine

    jobs = 1

    def run(self, jobs: int = 1) -> None:
        """Make all trials, ``jobs`` at a time where they fit in memory.

        Raises:
            UserError: a trial needs more memory than the machine has, or all of them fail alike.
            KeyboardInterrupt: unfinished trials go on in the next call.
        """
        self.jobs = jobs
        pool, host, device = Pool(jobs), MemoryGate(), DeviceGate()
        running: dict[int, _Running] = {}
        waiting = None
        for record in self.records:
            host.saw(record["memory_gib"])
        try:
            while True:
                while len(pool.running) < jobs:
                    waiting = waiting or self.ask()
                    if waiting is None or not self._fits(host, device, pool):
                        break
                    running[waiting.number] = _Running(waiting)
                    self._start(pool, waiting)
                    waiting = None
                if waiting is None and not pool.running:
                    break
                for number, kind, value in pool.events(timeout=1.0):
                    state = running[number]
                    if kind == "report":
                        state.hear(value, self.search.metric)
                        host.saw(value["memory_gib"])
                        device.hear(number, value)
                        self.bar.set_postfix_str("; ".join(map(str, running.values())))
                        continue
                    del running[number]
                    device.forget(number)
                    tell = self.tell if kind == "done" else self.tell_failure
                    tell(state.attempt, value, perf_counter() - state.started, state.memory_gib)
        finally:
            pool.stop()
            self.bar.close()

    def _start(self, pool: Pool, attempt: Attempt) -> None:
        key = attempt.run.key
        pool.start(attempt.number, trial, (attempt.run, self.search.weights(key)), self.search.log(key))

    def _fits(self, host: MemoryGate, device: DeviceGate, pool: Pool) -> bool:
        if host.expected > total_gib():
            raise UserError(
                f"a trial needs about {host.expected:.1f} GiB, and this machine has {total_gib():.1f}: search on a "
                "larger one, or with smaller settings"
            )
        fits = host.admits(map(held_gib, pool.running.values())) and device.admits(pool.running)
        if not fits and not pool.running:
            self.bar.set_postfix_str(
                f"waiting for memory: a trial needs {host.expected:.1f} GiB, {available_gib():.1f} are free"
            )
        return fits

    # ------------------------------------------------------------------ the chosen one

    def conclude(self) -> dict:
        """Test the best trial, unless that was done before, and write its configuration.

        Returns:
            The record of ``chosen.jsonl``.

        Raises:
            UserError: no trial has finished, or the test fails.
        """
        best, search = self.best, self.search
        if best is None:
            last = f": {self.failures[-1]}" if self.failures else ""
            raise UserError(f"none of {self._ended} trials has finished{last} (see {search.folder / 'logs'})")
        run = search.run(best["point"])
        tested = store.finished(store.read(search.chosen_file)) if search.chosen_file.is_file() else {}
        record = tested.get(best["key"]) or self._test(run, best)
        write_yaml(search.folder / "best.yaml", self.chosen_configuration(), self._caption())
        shutil.rmtree(search.folder / "running", ignore_errors=True)
        return record

    def _test(self, run: Run, best: dict) -> dict:
        weights = self.search.weights(best["key"])
        if not weights.is_file():
            self.bar.write("the weights of the best trial are not on this machine: it is trained again and tested")
            record = execute_apart(run, self.search.chosen_file, per_user=False)
            if record["status"] != "finished":
                raise UserError(f"the test of the best trial failed: {record['error']}")
            return record
        kind, value = self._apart(test, (run, weights), self.search.log(best["key"]))
        if kind == "failed":
            raise UserError(f"the test of the best trial failed: {value}")
        store.append(self.search.chosen_file, best | {"test": value})
        return best | {"test": value}

    @staticmethod
    def _apart(function: Callable, args: tuple, log: Path) -> tuple[str, object]:
        pool = Pool()
        try:
            pool.start(0, function, args, log)
            while True:
                for _, kind, value in pool.events():
                    if kind != "report":
                        return kind, value
        finally:
            pool.stop()

    def chosen_configuration(self) -> dict:
        """What makes the next run the best trial: model, dataset, seed, the user's settings and the chosen ones."""
        run = self.search.run(self.best["point"])
        return {"model": run.model, "dataset": run.dataset, "seed": run.seed} | run.overrides

    def _caption(self) -> str:
        base, best = self.search.base, self.best
        return (
            f"{base.model} on {base.dataset}: the best of {len(self.records)} trials by {base.config['valid_metric']} "
            f"on the validation split, {best['score']:.4f}."
        )

    # ------------------------------------------------------------------ RecBole's other seams

    def export_result(self, output_file: str | Path) -> None:
        """Write parameters and validation scores of all trials as text (RecBole's form has test scores, too)."""
        with atomic_file(output_file) as temporary, open(temporary, "w", encoding="utf-8") as stream:
            for record in self.records:
                scores = "    ".join(f"{name} : {value}" for name, value in record["valid"].items())
                stream.write(f"{describe(record['point'])}\nValid result:\n{scores}\n\n")


def _document(number: int, drawn: dict[str, float], domain, trials) -> dict:
    """A proposal in hyperopt's form."""
    misc = {"tid": number, "cmd": domain.cmd, "workdir": domain.workdir}
    misc |= {"idxs": {name: [number] for name in drawn}, "vals": {name: [value] for name, value in drawn.items()}}
    (document,) = trials.new_trial_docs([number], [None], [domain.new_result()], [misc])
    return document


def _in_order(space: Space) -> Callable:
    """A search algorithm of hyperopt's form that proposes the points of the grid one after the other."""
    points = space.grid()

    def suggest(numbers: list[int], domain, trials, seed: int) -> list[dict]:
        point = next(points, None)
        if point is None:
            return []
        return [_document(numbers[0], {p.name: p.drawn(point[p.name]) for p in space.parameters}, domain, trials)]

    return suggest


def write_yaml(path: str | Path, configuration: dict, caption: str) -> None:
    """Write a configuration file for ``--config_files``, headed by ``caption``."""
    text = f"# {caption}\n" + yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def duration(seconds: float) -> str:
    """About so many hours, minutes or seconds."""
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}" if seconds < 10 * size else f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


# ------------------------------------------------------------------------------------------------------------
# a whole search


def shipped_space(model: str) -> Path:
    """The params file that comes with this package for ``model``.

    Raises:
        UserError: there is none.
    """
    path = properties_folder() / "tuning" / f"{model}.hyper"
    if not path.is_file():
        have = ", ".join(sorted(file.stem for file in path.parent.glob("*.hyper")))
        raise UserError(f"no search space comes with {model}: name one with --params_file (there are those of {have})")
    return path


def tune(
    model: str,
    dataset: str,
    overrides: dict | None = None,
    config_files: list[str] | None = None,
    params_file: str | Path | None = None,
    algo: str = "exhaustive",
    max_evals: int = 100,
    early_stop: int | None = None,
    jobs: int = 1,
    root: str | Path = "tuning",
    progress: bool = True,
    on_ray: RaySettings | None = None,
) -> tuple[dict, Tuning]:
    """Search, choose on the validation split, then test the chosen point.

    Args:
        overrides, config_files: as for :func:`~recbole_mambarec.experiments.run.resolve`.
        params_file: the search space; by default the one that comes with this package.
        root: where the search's folder is made; the same search finds its record there.
        on_ray: run the trials on ray instead of in processes of this machine.

    Returns:
        The record of the chosen trial with its test scores (see ``chosen.jsonl``), and the search.

    Raises:
        UserError: the space, the configuration or the data is at fault, another process makes the same search, or no
            trial has finished.
        KeyboardInterrupt: the next call goes on.
    """
    base = resolve(model, dataset, overrides=overrides, config_files=config_files)
    search = Search(base, read_space(params_file or shipped_space(model)), root)
    search.folder.mkdir(parents=True, exist_ok=True)
    with open(search.folder / "lock", "ab") as lock, contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            raise UserError(f"another process makes this search in {search.folder}: wait for it") from None
        tuning = Tuning(search, algo, max_evals, early_stop, on_ray is not None, progress)
        tuning.announce()
        if on_ray is None:
            tuning.run(jobs)
        else:
            from recbole_mambarec.experiments.on_ray import run_on_ray

            run_on_ray(tuning, jobs, on_ray)
        return tuning.conclude(), tuning
