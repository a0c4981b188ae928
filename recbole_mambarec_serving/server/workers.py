"""Threads that compute answers, so that one long request does not hold up the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Answer = TypeVar("Answer")


class Busy(Exception):
    """As many requests wait as may."""


class TooSlow(Exception):
    """The answer has taken longer than it may."""


class Workers:
    """A bounded number of threads with a bounded queue before them.

    Args:
        threads: computations at the same time; numpy computes outside of Python's lock, so they use several cores.
        waiting: computations that wait for a thread.
        timeout: seconds that one may take, its wait included.
    """

    def __init__(self, threads: int, waiting: int, timeout: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="recommend")
        self._most, self._timeout = threads + waiting, timeout
        self._pending, self._lock = 0, threading.Lock()

    async def run(self, compute: Callable[[], Answer]) -> Answer:
        """The result of ``compute()``.

        One that is too slow keeps its thread to its end (a thread cannot be ended), and counts as pending until then.

        Raises:
            Busy: too many wait already.
            TooSlow: there is no result in time.
        """
        with self._lock:
            if self._pending >= self._most:
                raise Busy
            self._pending += 1
        try:
            future = self._pool.submit(compute)
        except BaseException:
            self._ended(None)
            raise
        future.add_done_callback(self._ended)
        try:
            # a wait that is given up takes the computation out of the queue, if it has not begun
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout)
        except (asyncio.TimeoutError, TimeoutError):
            if future.done() and not future.cancelled():
                raise  # its own
            raise TooSlow from None

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ended(self, future: Future | None) -> None:
        with self._lock:
            self._pending -= 1
