"""Several jobs at once on one machine, each in a fresh process, as many as fit in memory."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from recbole_mambarec.errors import UserError, sentence
from recbole_mambarec.memory import free_gib

# a job may need a little more than those before it
_MARGIN = 1.1


class Event(NamedTuple):
    """What a job says: ``report`` (whatever its function sends), ``done`` (its result) or ``failed`` (a sentence)."""

    job: Hashable
    kind: str
    value: object


class Pool:
    """Processes that are started one by one and heard together.

    Args:
        jobs: how many may run at once; the machine's cores are divided among them unless ``OMP_NUM_THREADS`` is set.
    """

    def __init__(self, jobs: int = 1) -> None:
        self.jobs = jobs
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = None if "OMP_NUM_THREADS" in os.environ else max(1, cores // jobs)
        self._running: dict[Hashable, tuple[multiprocessing.Process, Connection]] = {}
        self._outcomes: dict[Hashable, Event] = {}

    @property
    def running(self) -> dict[Hashable, int]:
        """Jobs that have not ended, with the numbers of their processes."""
        return {job: process.pid for job, (process, _) in self._running.items()}

    def start(self, job: Hashable, function: Callable, args: tuple, log: Path) -> None:
        """Call ``function(*args, report=...)`` in a fresh process whose output goes to the file ``log``.

        The function lives in a module of this package: looking it up there is what registers the models.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        arguments = (sender, str(log), self._threads, function, args)
        process = context.Process(target=_child, args=arguments, name=f"trial {job}")
        with interrupts_ignored():
            process.start()
        sender.close()
        self._running[job] = process, receiver

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """What the jobs have said; waits up to ``timeout`` seconds for the first word."""
        for receiver in wait([receiver for _, receiver in self._running.values()], timeout):
            job = next(job for job, (_, other) in self._running.items() if other is receiver)
            try:
                kind, value = receiver.recv()
            except (EOFError, OSError):
                yield self._ended(job)
                continue
            except Exception as error:  # half a message of a process that was killed
                kind, value = "failed", f"its last words are not understood ({type(error).__name__})"
            if kind == "report":
                yield Event(job, kind, value)
            else:
                self._outcomes[job] = Event(job, kind, value)

    def _ended(self, job: Hashable) -> Event:
        process, receiver = self._running.pop(job)
        process.join()
        receiver.close()
        return self._outcomes.pop(job, None) or Event(job, "failed", how_it_ended(process.exitcode))

    def close(self) -> None:
        """End all jobs."""
        for process, _ in self._running.values():
            process.terminate()
        for process, receiver in self._running.values():
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            receiver.close()
        self._running.clear()


def how_it_ended(status: int) -> str:
    """A sentence for the exit status of a process that died without a word."""
    if status < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-status, f"signal {-status}")
        return f"its process was killed by {name}" + (" (memory may have run out)" if name == "SIGKILL" else "")
    return f"its process ended with status {status}"


class MemoryGate:
    """Lets a job start only where the most memory that any job was seen to need is free.

    Until a job has shown what it needs, it runs alone.

    Args:
        room: memory that is free at the moment, in GiB.
    """

    def __init__(self, room: Callable[[], float] = free_gib) -> None:
        self.expected = 0.0
        self._room = room

    def saw(self, gib: float) -> None:
        """A job has needed this much."""
        self.expected = max(self.expected, gib)

    def admits(self, running: Iterable[float]) -> bool:
        """Whether one more fits beside jobs that hold this much each and may still grow to what is expected."""
        held = list(running)
        if not self.expected:
            return not held
        growth = sum(max(0.0, self.expected - gib) for gib in held)
        # alone, a job needs no margin: it, or one like it, has run in this much
        return self.expected * (_MARGIN if held else 1.0) + growth <= self._room()


class DeviceGate:
    """A :class:`MemoryGate` for a GPU, of which only the jobs know how much of it is free; none: everything fits."""

    def __init__(self) -> None:
        self._gate = MemoryGate(lambda: self._free)
        self._held: dict[Hashable, float] = {}
        self._free = 0.0

    def hear(self, job: Hashable, report: dict) -> None:
        """What a job has reported: ``device_gib`` it took at most and ``device_free_gib`` that are left, if any."""
        if "device_gib" in report:
            self._held[job], self._free = report["device_gib"], report["device_free_gib"]
            self._gate.saw(report["device_gib"])

    def forget(self, job: Hashable) -> None:
        """A job has ended."""
        self._free += self._held.pop(job, 0.0)

    def admits(self, running: Iterable[Hashable]) -> bool:
        """As :meth:`MemoryGate.admits`."""
        return not self._gate.expected or self._gate.admits([self._held.get(job, 0.0) for job in running])


@contextlib.contextmanager
def interrupts_ignored() -> Iterator[None]:
    """A process started here ignores Ctrl-C, which reaches the whole group: its parent decides what becomes of it.

    It may listen again as soon as it can stop without a traceback, which it cannot while it imports.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _child(sender: Connection, log: str, threads: int | None, function: Callable, args: tuple) -> None:
    with open(log, "a", encoding="utf-8") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    faulthandler.enable()
    sys.argv = sys.argv[:1]
    threading.Thread(target=end_with_parent, args=(1,), daemon=True).start()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        sender.send(("done", function(*args, report=lambda value: sender.send(("report", value)))))
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        sender.send(("failed", sentence(error)))


def end_with_parent(status: int) -> None:
    """For a thread: who was killed must not leave a training behind that nobody sees."""
    multiprocessing.parent_process().join()
    os._exit(status)
