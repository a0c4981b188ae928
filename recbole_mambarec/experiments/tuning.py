"""RecBole's ``HyperTuning`` with trials in fresh processes, each recorded as it ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from recbole.trainer import HyperTuning
from tqdm import tqdm

from recbole_mambarec.errors import UserError
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.processes import DeviceGate, MemoryGate, Pool
from recbole_mambarec.experiments.run import Run, failure
from recbole_mambarec.experiments.search import Search, describe, identity
from recbole_mambarec.experiments.space import Space
from recbole_mambarec.experiments.trial import trial
from recbole_mambarec.memory import free_gib, held_gib, total_gib
from recbole_mambarec.patience import first_is_best
from recbole_mambarec_common.extras import need
from recbole_mambarec_common.files import atomic_file

ALGORITHMS = ("exhaustive", "random", "bayes")
# proposals that may repeat a known point before chance alone proposes, and before the search is at its end
_REPEATS = 100
# failures with one and the same sentence, and no success, that end a search
_SAME_FAILURES = 3


@dataclass
class _Running:
    """What is known of a trial that has not ended."""

    attempt: Attempt
    started: float = field(default_factory=perf_counter)
    memory_gib: float = 0.0
    progress: str = "starts"

    def hear(self, report: dict, metric: str) -> None:
        self.memory_gib = max(self.memory_gib, report["memory_gib"])
        self.progress = f"epoch {report['entry']['epoch']}, {report['entry']['valid'][metric]:.4f}"

    def __str__(self) -> str:
        return f"{describe(self.attempt.point)}: {self.progress}"


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
        suggest = suggestion(algo, search.space)
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
        """The record of the best trial that ran to its end; of equal ones, that which comes first in the grid."""
        whole = [record for record in self.records if not record["stopped"]]
        parameters = self.search.space.parameters
        return max(
            whole,
            key=lambda record: (self._gain(record["score"]), *(-p.drawn(record["point"][p.name]) for p in parameters)),
            default=None,
        )

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

    def tell(
        self, attempt: Attempt, record: dict, wall_seconds: float, memory_gib: float, stopped: bool = False
    ) -> None:
        """A trial has ended: ``record`` is what it returned."""
        score, previous = record["valid"][self.search.metric], self.best
        if not math.isfinite(score):
            self.tell_failure(attempt, f"its score is {score}", wall_seconds, memory_gib)
            return
        record |= {"point": attempt.point, "score": score, "stopped": stopped}
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
        self.bar.write(f"trial {self.ended} of {self.max_evals}: {describe(attempt.point)}: failed: {sentence}")
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
    def ended(self) -> int:
        """Trials that have finished or failed."""
        return len(self.records) + len(self.failures)

    def announce(self) -> None:
        """Say what is going to happen."""
        base, known = self.search.base, len(self.records)
        line = f"{self.max_evals} trials of {base.model} on {base.dataset}, in {self.search.folder}"
        self.bar.write(f"{line}: {known} are on record" if known else line)

    def _say(self, record: dict) -> None:
        """One line per trial."""
        best, metric = self.best, self.search.base.config["valid_metric"]
        parts = [f"{metric} {record['score']:.4f} after epoch {record['best_epoch'] + 1} of {record['epochs']}"]
        parts[0] += ", stopped early" if record["stopped"] else ""
        parts[0] += " (the first: it may not have begun to learn)" if first_is_best(record) else ""
        if best is record:
            parts.append("the best so far")
        elif best is not None:
            parts.append(f"best {best['score']:.4f} ({describe(best['point'])})")
        parts.append(duration(record["wall_seconds"]))
        if self.ended < self.max_evals:
            parts.append(f"about {duration(self.time_left())} left")
        self.bar.update()
        self.bar.write(f"trial {self.ended} of {self.max_evals}: {describe(record['point'])}: {', '.join(parts)}")

    def time_left(self) -> float:
        """Seconds until the last trial, if the next ones take as long as those so far."""
        seconds = [record["wall_seconds"] for record in self.records]
        return sum(seconds) / len(seconds) * max(0, self.max_evals - self.ended) / self.jobs

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
            pool.close()
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
                f"waiting for memory: a trial needs {host.expected:.1f} GiB, {free_gib():.1f} are free"
            )
        return fits

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


def suggestion(algo: str, space: Space) -> Callable | str:
    """What ``HyperTuning`` takes as ``algo``.

    Raises:
        UserError: the algorithm is unknown, or does not fit the space.
    """
    if algo not in ALGORITHMS:
        raise UserError(f"search algorithm '{algo}' is unknown: use one of {', '.join(ALGORITHMS)}")
    return _in_order(space) if algo == "exhaustive" else algo


def _in_order(space: Space) -> Callable:
    """A search algorithm of hyperopt's form that proposes the points of the grid one after the other."""
    points = space.grid()

    def suggest(numbers: list[int], domain, trials, seed: int) -> list[dict]:
        point = next(points, None)
        if point is None:
            return []
        return [_document(numbers[0], {p.name: p.drawn(point[p.name]) for p in space.parameters}, domain, trials)]

    return suggest


def duration(seconds: float) -> str:
    """About so many hours, minutes or seconds."""
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}" if seconds < 10 * size else f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
