"""The bundle that is served, exchanged for a new one while requests are answered."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from recbole_mambarec_common.errors import UserError, error_summary

log = logging.getLogger("recbole_mambarec.serve")
#: no signature at all; None is that of a path where nothing is
_NONE = ("none",)


class Loaded(NamedTuple):
    """A bundle in memory.

    Attributes:
        recommender: answers for it; read-only, so any number of threads may ask it.
        signature: the files it was read from.
        at: when, in seconds since 1970.
    """

    recommender: Any
    signature: tuple
    at: float


class Bundles:
    """The bundle at a path, and whichever lies there later.

    The path may be a folder or a symbolic link to one. It is looked at every ``poll`` seconds: where the link leads,
    and name, size, time and inode of the files there. If that differs from what is served and has stayed the same from
    one look to the next (whoever copies files into place is still at it otherwise), the new bundle is loaded beside the
    old one and asked for one list; then one assignment replaces the old one, which the requests that have begun with it
    keep. A bundle that cannot be loaded is refused: the old one stays, and ``fault`` says why until the path changes
    again.

    Args:
        load: such as ``Recommender.load``.
        poll: seconds between two looks.
        told: called with ``swapped`` or ``refused``.

    Raises:
        UserError: the first bundle cannot be loaded.
    """

    def __init__(
        self,
        path: str | Path,
        load: Callable[[Path], Any],
        poll: float = 2.0,
        told: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._path, self._load, self._poll, self.told = Path(path), load, poll, told
        self._before: tuple | None = _NONE
        self._refused: tuple | None = _NONE
        self._wake, self._stopped, self._at_once = threading.Event(), False, False
        self._thread: threading.Thread | None = None
        self._looking = threading.Lock()
        self.fault: str | None = None
        found = signature(self._path)
        if found is None:
            raise UserError(f"there is no bundle {path}: write one with recbole-mambarec export")
        self.current = self._loaded(found)

    def look(self, at_once: bool = False) -> bool:
        """Load what lies at the path if it is new; True if it is served from now on.

        Args:
            at_once: whoever asks says that it is complete; don't wait for the next look to see the same.
        """
        with self._looking:
            found = signature(self._path)
            before, self._before = self._before, found
            if found == self.current.signature:
                self._forgive()
                return False
            if not at_once and (found == self._refused or found != before):
                return False
            if found is None:
                self._refuse(found, "the bundle is gone")
                return False
            try:
                new = self._loaded(found)
            except Exception as error:  # whatever is wrong with it, the old one is still right
                if signature(self._path) == found:
                    self._refuse(found, error_summary(error))
                return False
            if signature(self._path) != found:
                # it changed while it was read: what was read may be of two bundles
                return False
            self.current = new
            self._forgive()
            log.info("serving the new bundle %s", describe(new))
            self.told("swapped")
            return True

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        self._stopped = False
        self._thread = threading.Thread(target=self._watch, name="bundles", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Make the thread look now; may be called by a signal handler."""
        self._at_once = True
        self._wake.set()

    def stop(self) -> None:
        """End the thread; a bundle that is being loaded is not waited for."""
        self._stopped = True
        self._wake.set()

    def _watch(self) -> None:
        while True:
            self._wake.wait(self._poll)
            self._wake.clear()
            if self._stopped:
                return
            at_once, self._at_once = self._at_once, False
            try:
                self.look(at_once)
            except Exception:  # such as a network drive that fails: the next look may succeed
                log.exception("could not look at the bundle")

    def _loaded(self, found: tuple) -> Loaded:
        # from the folder that the link led to, so that all files are of one bundle
        recommender = self._load(Path(found[0]))
        # one list shows most of what can be wrong, and fills what is computed at the first question
        recommender.recommend(str(recommender.users.tokens[0]), k=1)
        return Loaded(recommender, found, time.time())

    def _refuse(self, found: tuple | None, why: str) -> None:
        if found != self._refused:
            log.warning("the new bundle is not served, the old one stays: %s", why)
            self.told("refused")
        self.fault, self._refused = why, found

    def _forgive(self) -> None:
        self.fault, self._refused = None, _NONE


def signature(path: Path) -> tuple | None:
    """What tells a bundle from another: its folder, and what is in it; None if there is none."""
    try:
        folder = os.path.realpath(path)
        with os.scandir(folder) as entries:
            files = [(entry.name, entry.stat()) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (folder, *sorted((name, s.st_size, s.st_mtime_ns, s.st_ino) for name, s in files))


def describe(loaded: Loaded) -> str:
    """Name and size of a bundle in a few words."""
    recommender = loaded.recommender
    return f"{recommender.name} ({len(recommender.users)} users, {len(recommender.items)} items)"
