"""RecBole's ``HyperTuning`` with trials in fresh processes, each recorded when it ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from recbole.trainer import HyperTuning
from tqdm import tqdm

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.plan import Run
from recbole_mambarec.experiments.processes import DeviceGate, MemoryGate, Pool
from recbole_mambarec.experiments.run import failure
from recbole_mambarec.experiments.search import Search, describe, identity
from recbole_mambarec.experiments.space import Space
from recbole_mambarec.experiments.store import Record
from recbole_mambarec.experiments.trial import trial
from recbole_mambarec.memory import free_gib, held_gib, total_gib
from recbole_mambarec.patience import first_is_best
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import atomic_file

ALGORITHMS = ("exhaustive", "random", "bayes")
# after this many proposals of known points, points are drawn at random; after twice as many, the search ends
_REPEATS = 100
# a search ends if this many trials fail with the same sentence before one succeeds
_SAME_FAILURES = 3


@dataclass
class _Running:
    """The state of a trial that has not ended."""

    attempt: Attempt
    started: float = field(default_factory=perf_counter)
    memory_gib: float = 0.0
    progress: str = "starts"

    def update(self, report: dict, metric: str) -> None:
        """Take a report of the trial into account."""
        self.memory_gib = max(self.memory_gib, report["memory_gib"])
        self.progress = f"epoch {report['entry']['epoch']}, {report['entry']['valid'][metric]:.4f}"

    def __str__(self) -> str:
        return f"{describe(self.attempt.point)}: {self.progress}"


class Attempt(NamedTuple):
    """A trial to be run: hyperopt's number for it, its point in the search space, and the run."""

    number: int
    point: dict
    run: Run


class Tuning(HyperTuning):
    """RecBole's ``HyperTuning`` with an ask-and-tell interface, so that trials can run anywhere.

    Differences from RecBole's class: an exhaustive search goes through its grid in order (RecBole draws points at
    random until 1000 in a row are known, which misses some of a large grid) and stops early only on request; no point
    is proposed twice; the test split is not evaluated; a failed trial does not end the search.

    Args:
        algo: ``exhaustive``, ``random`` or ``bayes`` (hyperopt's tree of Parzen estimators).
        max_evals: number of trials, including recorded ones; an exhaustive search runs all of its grid.
        early_stop: stop after this many trials in a row without a better one; None: never.
        accept_stopped: count recorded trials that were stopped early.
        progress: show a progress bar.

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
        suggest = suggestion(algo, search.space)
        super().__init__(trial, params_dict=search.space.as_dict(), algo=suggest, early_stop=early_stop or max_evals)
        size = search.space.size
        self.search, self.exhaustive = search, algo == "exhaustive"
        self.max_evals = size if self.exhaustive else min(max_evals, size or max_evals)
        self.patience = early_stop
        self.model = search.base.model
        self.records: list[Record] = []
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
    def best(self) -> Record | None:
        """The record of the best trial that was not stopped early; of equal ones, the first in the grid."""
        whole = [record for record in self.records if not record.stopped]
        parameters = self.search.space.parameters
        return max(
            whole,
            key=lambda record: (self._gain(record.score), *(-p.drawn(record.point[p.name]) for p in parameters)),
            default=None,
        )

    def ask(self) -> Attempt | None:
        """The next trial to run; None if there is none, for now or at all."""
        from hyperopt import rand

        if self.patience is not None and self._since_best >= self.patience:
            return None
        for repeat in itertools.count():
            if len(self._seen) >= self.max_evals or (repeat >= 2 * _REPEATS and not self.exhaustive):
                break
            (number,) = self._trials.new_trial_ids(1)
            suggest = self.algo if self.exhaustive or repeat < _REPEATS else rand.suggest
            documents = suggest([number], self._domain, self._trials, self.search.base.seed + number)
            if not documents:
                break
            drawn = documents[0]["misc"]["vals"]
            point = {p.name: p.value(drawn[p.name][0]) for p in self.search.space.parameters}
            if identity(point) in self._seen:
                continue
            self._propose(number, documents[0], point)
            return Attempt(number, point, self.search.run(point))
        return None

    def tell(
        self, attempt: Attempt, record: Record, wall_seconds: float, memory_gib: float, stopped: bool = False
    ) -> None:
        """Record the result of a trial.

        Args:
            record: what the trial returned.
            wall_seconds, memory_gib: of its process.
            stopped: it was stopped early.
        """
        score, previous = record.valid[self.search.metric], self.best
        if not math.isfinite(score):
            self.tell_failure(attempt, f"its score is {score}", wall_seconds, memory_gib)
            return
        record = self._write(attempt, replace(record, score=score, stopped=stopped), wall_seconds, memory_gib)
        self._succeed(attempt.number, record)
        worse = previous if self.best is record else record
        if worse is not None:
            self.search.weights(worse.key).unlink(missing_ok=True)
        self._report(record)

    def tell_failure(self, attempt: Attempt, error: str, wall_seconds: float, memory_gib: float = 0.0) -> None:
        """Record the failure of a trial.

        Args:
            error: a sentence.

        Raises:
            UserError: all trials so far have failed with this sentence, and there are several.
        """
        self._write(attempt, failure(attempt.run, error), wall_seconds, memory_gib)
        self._close(attempt.number, {"status": "fail"})
        self.failures.append(error)
        self.bar.update()
        self.bar.write(f"trial {self.ended} of {self.max_evals}: {describe(attempt.point)}: failed: {error}")
        if not self.records and self.failures[-_SAME_FAILURES:] == [error] * _SAME_FAILURES:
            raise UserError(f"the first {_SAME_FAILURES} trials failed with the same error: {error}")

    def _gain(self, score: float) -> float:
        return score if self.search.bigger else -score

    def _write(self, attempt: Attempt, record: Record, wall_seconds: float, memory_gib: float) -> Record:
        """Add the fields of a trial to a record, and the record to the file."""
        wall_seconds, memory_gib = round(wall_seconds, 1), round(memory_gib, 3)
        record = replace(record, point=attempt.point, wall_seconds=wall_seconds, memory_gib=memory_gib)
        store.append(self.search.trials_file, record)
        return record

    def _propose(self, number: int, document: dict, point: dict) -> None:
        self._trials.insert_trial_docs([document])
        self._trials.refresh()
        self._documents[number] = document
        self._seen.add(identity(point))

    def _close(self, number: int, result: dict) -> None:
        """Tell hyperopt the result of a trial."""
        from hyperopt import JOB_STATE_DONE

        self._documents.pop(number).update(result=result, state=JOB_STATE_DONE)
        self._trials.refresh()

    def _learn(self, record: Record) -> None:
        """Take over a recorded trial as if it had been run now."""
        drawn = {p.name: p.drawn(record.point[p.name]) for p in self.search.space.parameters}
        (number,) = self._trials.new_trial_ids(1)
        self._propose(number, _document(number, drawn, self._domain, self._trials), record.point)
        self._succeed(number, record)

    def _succeed(self, number: int, record: Record) -> None:
        self._close(number, {"status": "ok", "loss": -self._gain(record.score)})
        self._count(record)

    def _count(self, record: Record) -> None:
        """Update the attributes of RecBole's class."""
        self.records.append(record)
        self._since_best = 0 if self.best is record else self._since_best + 1
        if self.best is not None:
            self.best_score, self.best_params = self.best.score, self.best.point
        self.params_list.append(describe(record.point))
        self.score_list.append(record.score)
        self.params2result[describe(record.point)] = {"best_valid_result": record.valid, "test_result": None}

    # ------------------------------------------------------------------ progress

    @property
    def ended(self) -> int:
        """Trials that have finished or failed."""
        return len(self.records) + len(self.failures)

    def announce(self) -> None:
        """Print what the search is about to do."""
        base, recorded = self.search.base, len(self.records)
        line = f"{self.max_evals} trials of {base.model} on {base.dataset}, in {self.search.folder}"
        self.bar.write(f"{line}: {recorded} are already recorded" if recorded else line)

    def _report(self, record: Record) -> None:
        """Print a line about a trial that has ended."""
        best, metric = self.best, self.search.base.config["valid_metric"]
        parts = [f"{metric} {record.score:.4f} after epoch {record.best_epoch + 1} of {record.epochs}"]
        parts[0] += ", stopped early" if record.stopped else ""
        if first_is_best(record.curve, record.best_epoch):
            parts[0] += " (the first: it may not have begun to learn)"
        if best is record:
            parts.append("the best so far")
        elif best is not None:
            parts.append(f"best {best.score:.4f} ({describe(best.point)})")
        parts.append(duration(record.wall_seconds))
        if self.ended < self.max_evals:
            parts.append(f"about {duration(self.time_left())} left")
        self.bar.update()
        self.bar.write(f"trial {self.ended} of {self.max_evals}: {describe(record.point)}: {', '.join(parts)}")

    def time_left(self) -> float:
        """Estimated seconds until the last trial ends: the others are assumed to take as long as those so far."""
        seconds = [record.wall_seconds for record in self.records]
        return sum(seconds) / len(seconds) * max(0, self.max_evals - self.ended) / self.jobs

    # ------------------------------------------------------------------ on this machine

    jobs = 1

    def run(self, jobs: int = 1) -> None:
        """Run all trials, ``jobs`` at a time if they fit in memory.

        Raises:
            UserError: a trial needs more memory than the machine has, or all trials fail with the same error.
            KeyboardInterrupt: unfinished trials continue in the next call.
        """
        self.jobs = jobs
        pool, host, device = Pool(jobs), MemoryGate(), DeviceGate()
        running: dict[Hashable, _Running] = {}
        waiting = None
        for record in self.records:
            host.observe(record.memory_gib)
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
                    if kind == "interrupted":
                        raise KeyboardInterrupt
                    if kind == "report":
                        state.update(value, self.search.metric)
                        host.observe(value["memory_gib"])
                        device.observe(number, value)
                        self.bar.set_postfix_str("; ".join(map(str, running.values())))
                        continue
                    del running[number]
                    device.release(number)
                    tell = self.tell if kind == "done" else self.tell_failure
                    tell(state.attempt, value, perf_counter() - state.started, state.memory_gib)
        finally:
            pool.close()
            self.bar.close()

    def _start(self, pool: Pool, attempt: Attempt) -> None:
        key = attempt.run.key
        pool.start(attempt.number, trial, (attempt.run, self.search.weights(key)), self.search.log(key))

    def _fits(self, host: MemoryGate, device: DeviceGate, pool: Pool) -> bool:
        if host.expected > total_gib():
            raise UserError(
                f"a trial needs about {host.expected:.1f} GiB, and this machine has {total_gib():.1f}: use a larger "
                "machine or smaller settings"
            )
        fits = host.admits(map(held_gib, pool.running.values())) and device.admits(pool.running)
        if not fits and not pool.running:
            self.bar.set_postfix_str(
                f"waiting for memory: a trial needs {host.expected:.1f} GiB, {free_gib():.1f} are free"
            )
        return fits

    # ------------------------------------------------------------------ other methods of RecBole's class

    def export_result(self, output_file: str | Path) -> None:
        """Write parameters and validation scores of all trials as text; RecBole also writes test scores."""
        with atomic_file(output_file) as temporary, open(temporary, "w", encoding="utf-8") as stream:
            for record in self.records:
                scores = "    ".join(f"{name} : {value}" for name, value in record.valid.items())
                stream.write(f"{describe(record.point)}\nValid result:\n{scores}\n\n")


def _document(number: int, drawn: dict[str, float], domain, trials) -> dict:
    """A proposal in the form that hyperopt expects."""
    misc = {"tid": number, "cmd": domain.cmd, "workdir": domain.workdir}
    misc |= {"idxs": {name: [number] for name in drawn}, "vals": {name: [value] for name, value in drawn.items()}}
    (document,) = trials.new_trial_docs([number], [None], [domain.new_result()], [misc])
    return document


def suggestion(algo: str, space: Space) -> Callable | str:
    """The argument ``algo`` of ``HyperTuning``.

    Raises:
        UserError: the algorithm is unknown, or does not fit the space.
    """
    if algo not in ALGORITHMS:
        raise UserError(f"search algorithm '{algo}' is unknown: use one of {', '.join(ALGORITHMS)}")
    return _in_order(space) if algo == "exhaustive" else algo


def _in_order(space: Space) -> Callable:
    """A search algorithm for hyperopt that proposes the points of the grid one after the other."""
    points = space.grid()

    def suggest(numbers: list[int], domain, trials, seed: int) -> list[dict]:
        point = next(points, None)
        if point is None:
            return []
        return [_document(numbers[0], {p.name: p.drawn(point[p.name]) for p in space.parameters}, domain, trials)]

    return suggest


def duration(seconds: float) -> str:
    """Text such as ``1.5 h``, ``3 min`` or ``20 s``."""
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}" if seconds < 10 * size else f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
