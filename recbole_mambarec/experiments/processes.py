"""Functions in fresh processes: one that is waited for, or several at once, as many as fit in memory."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, cast

from recbole_mambarec.errors import UserError, error_summary
from recbole_mambarec.memory import free_gib

# fresh processes: a fork would inherit the threads of torch and the memory of this process
_CONTEXT = multiprocessing.get_context("spawn")
# a job may need a little more than those before it
_MARGIN = 1.1
# exit status of a process that was interrupted
_INTERRUPTED = 130


class Event(NamedTuple):
    """A message from a job.

    Attributes:
        kind: ``report`` (whatever the job's function sends), or as the last one ``done`` (its result), ``failed`` (a
            sentence) or ``interrupted`` (None).
    """

    job: Hashable
    kind: str
    value: Any


class Pool:
    """Processes that are started one by one and whose messages arrive together.

    Args:
        jobs: how many may run at once.
        divide_cores: give each job an equal share of the cores, unless ``OMP_NUM_THREADS`` is set.
    """

    def __init__(self, jobs: int = 1, divide_cores: bool = True) -> None:
        self.jobs = jobs
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        divide_cores = divide_cores and "OMP_NUM_THREADS" not in os.environ
        self._threads = max(1, cores // jobs) if divide_cores else None
        self._running: dict[Hashable, tuple[BaseProcess, Connection]] = {}
        self._outcomes: dict[Hashable, Event] = {}

    @property
    def running(self) -> dict[Hashable, int]:
        """Jobs that have not ended, with their process ids."""
        return {job: process.pid for job, (process, _) in self._running.items()}

    def start(self, job: Hashable, function: Callable, args: tuple, log: Path | None = None) -> None:
        """Call ``function(*args, report=...)`` in a fresh process.

        Args:
            function: of a module of this package, which the process imports, so that RecBole is patched there, too.
            log: file that the process's output is appended to; None: it goes where this process's output goes.
        """
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        arguments = (sender, None if log is None else str(log), self._threads, function, args)
        process = _CONTEXT.Process(target=_child, args=arguments, name=f"job {job}")
        with _interrupts_ignored():
            process.start()
        sender.close()
        self._running[job] = process, receiver

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """Messages that have arrived; waits up to ``timeout`` seconds for the first one."""
        arrived = wait([receiver for _, receiver in self._running.values()], timeout)
        for receiver in cast("list[Connection]", arrived):
            job = next(job for job, (_, other) in self._running.items() if other is receiver)
            try:
                kind, value = receiver.recv()
            except (EOFError, OSError):
                yield self._ended(job)
                continue
            except Exception as error:  # half a message of a process that was killed
                kind, value = "failed", f"its last message cannot be read ({type(error).__name__})"
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
        """Interrupt all jobs, and kill those that have not ended after ten seconds."""
        for process, _ in self._running.values():
            process.terminate()
        for process, receiver in self._running.values():
            with contextlib.suppress(KeyboardInterrupt):
                process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            receiver.close()
        self._running.clear()


def call_apart(function: Callable, args: tuple, log: Path | None = None) -> Any:
    """The result of ``function(*args, report=...)``, called in a fresh process; its reports are dropped.

    Args:
        log: see :meth:`Pool.start`.

    Raises:
        UserError: the function has raised an exception, or its process was killed.
        KeyboardInterrupt: this process or the other one was interrupted; both have stopped.
    """
    with contextlib.closing(Pool(divide_cores=False)) as pool:
        pool.start(function.__name__, function, args, log)
        while True:
            for _, kind, value in pool.events():
                if kind == "done":
                    return value
                if kind == "failed":
                    raise UserError(value)
                if kind == "interrupted":
                    raise KeyboardInterrupt


def how_it_ended(status: int) -> str:
    """A sentence about a process that ended without a result.

    Args:
        status: its exit status; negative: the signal that killed it.
    """
    if status < 0:
        names = {number.value: number.name for number in signal.Signals}
        name = names.get(-status, f"signal {-status}")
        return f"its process was killed by {name}" + (" (memory may have run out)" if name == "SIGKILL" else "")
    return f"its process ended with status {status}"


class MemoryGate:
    """Lets a job start only where there is room for the most memory that any job so far has needed.

    Until a job has shown what it needs, it runs alone.

    Args:
        room: memory that is free at the moment, in GiB.
    """

    def __init__(self, room: Callable[[], float] = free_gib) -> None:
        self.expected = 0.0
        self._room = room

    def observe(self, gib: float) -> None:
        """Take into account that a job has needed this much."""
        self.expected = max(self.expected, gib)

    def admits(self, running: Iterable[float]) -> bool:
        """Whether one more job fits.

        Args:
            running: GiB that each running job holds; it may still grow to what is expected.
        """
        held = list(running)
        if not self.expected:
            return not held
        growth = sum(max(0.0, self.expected - gib) for gib in held)
        # alone, a job needs no margin: it, or one like it, has run in this much
        return self.expected * (_MARGIN if held else 1.0) + growth <= self._room()


class DeviceGate:
    """A :class:`MemoryGate` for a GPU, whose free memory only the jobs know; without a GPU, everything fits."""

    def __init__(self) -> None:
        self._gate = MemoryGate(lambda: self._free)
        self._held: dict[Hashable, float] = {}
        self._free = 0.0

    def observe(self, job: Hashable, report: dict) -> None:
        """Take a job's report into account: the ``device_gib`` it has held at most, and ``device_free_gib``, if any."""
        if "device_gib" in report:
            self._held[job], self._free = report["device_gib"], report["device_free_gib"]
            self._gate.observe(report["device_gib"])

    def release(self, job: Hashable) -> None:
        """Take into account that a job has ended."""
        self._free += self._held.pop(job, 0.0)

    def admits(self, running: Iterable[Hashable]) -> bool:
        """As :meth:`MemoryGate.admits`, for the jobs that are running."""
        return not self._gate.expected or self._gate.admits([self._held.get(job, 0.0) for job in running])


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let a process that is started here ignore Ctrl-C, which reaches the whole group: its parent ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _child(sender: Connection, log: str | None, threads: int | None, function: Callable, args: tuple) -> None:
    if log is not None:
        with open(log, "a", encoding="utf-8") as stream:
            for number in (1, 2):
                os.dup2(stream.fileno(), number)
    faulthandler.enable()
    sys.argv = sys.argv[:1]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        # from here on, the process can stop in good order; while it was importing, it would have left a traceback
        signal.signal(signal.SIGTERM, _interrupt)
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        sender.send(("done", function(*args, report=lambda value: sender.send(("report", value)))))
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the parent may be gone
            sender.send(("interrupted", None))
        logging.shutdown()
        for output in (sys.stdout, sys.stderr):
            output.flush()
        os._exit(_INTERRUPTED)  # the parent is waiting, and shutting torch down takes seconds
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        sender.send(("failed", error_summary(error)))


def _interrupt(number, frame) -> None:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """For a thread: if the parent is killed, nobody would know about a training that goes on."""
    multiprocessing.parent_process().join()
    os._exit(1)
