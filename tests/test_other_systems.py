"""Other systems than Linux: without ``fcntl``, ``resource`` or /proc, or with a terminal that is not UTF-8."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
import torch

from dataset_prep.features import _link
from recbole_mambarec import memory
from recbole_mambarec.data.cache import default_cache_folder
from recbole_mambarec.errors import UserError, run_main
from recbole_mambarec.experiments import store
from recbole_mambarec.experiments.processes import how_it_ended
from recbole_mambarec_common.files import atomic_file, locked


@pytest.fixture
def windows_locks(monkeypatch) -> dict:
    """The locks of a module that locks as Windows does: bytes of a file from where it stands, for one handle."""
    held: dict[tuple, int] = {}

    def locking(handle: int, mode: int, count: int) -> None:
        status = os.fstat(handle)
        place = (status.st_ino, os.lseek(handle, 0, os.SEEK_CUR), count)
        assert place[1] > 2**30, "the bytes of a file that is locked cannot be read by anybody else"
        if mode == module.LK_UNLCK:
            assert held.pop(place) == handle
        elif place in held:
            raise PermissionError(errno.EACCES, "Permission denied")
        else:
            held[place] = handle

    module = ModuleType("msvcrt")
    module.LK_NBLCK, module.LK_UNLCK, module.locking = 2, 0, locking
    monkeypatch.setitem(sys.modules, "msvcrt", module)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    return held


def test_files_are_locked_without_fcntl(windows_locks, tmp_path):
    path = tmp_path / "lock"
    with open(path, "ab") as first, open(path, "ab") as second:
        with locked(first, wait=False):
            with pytest.raises(BlockingIOError), locked(second, wait=False):
                pass
            assert len(windows_locks) == 1
        assert not windows_locks
        with pytest.raises(KeyError), locked(second):
            raise KeyError
        assert not windows_locks


def test_a_lock_without_fcntl_is_waited_for(windows_locks, tmp_path):
    path = tmp_path / "lock"
    order = []

    def wait_for_it() -> None:
        with open(path, "ab") as stream, locked(stream):
            order.append("second")

    with open(path, "ab") as stream, locked(stream):
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_records_are_appended_without_fcntl(windows_locks, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_fault", lambda record: None)
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b'{"cut": ')
    for number in (1, 2):
        store.append(path, SimpleNamespace(to_json=lambda number=number: {"number": number}))
    assert path.read_bytes() == b'{"cut": \n{"number": 1}\n{"number": 2}\n'


def test_the_peak_without_resource_and_proc(monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=3 * 2**30))
    with monkeypatch.context() as windows:
        windows.setitem(sys.modules, "resource", None)
        windows.setattr(psutil, "Process", lambda: process)
        assert memory.peak_gib() == 3.0
    usage = ModuleType("resource")
    usage.RUSAGE_SELF, usage.getrusage = 0, lambda who: SimpleNamespace(ru_maxrss=5 * 2**30)
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.peak_gib() == 5.0


def test_free_memory_without_proc(monkeypatch):
    monkeypatch.setattr(memory, "_lines", lambda path: [])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * 2**30))
    assert memory.available(torch.device("cpu")) == (7 * 2**30, "free memory of the machine")
    assert memory.free_gib() == 7.0


def test_files_are_copied_where_links_cannot_be_made_without_following(monkeypatch, tmp_path):
    def refuse(*arguments, follow_symlinks: bool) -> None:
        raise NotImplementedError("link: follow_symlinks unavailable on this platform")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "here").write_bytes(b"content")
    _link(str(tmp_path / "here"), str(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == b"content"


def test_files_are_flushed_through_a_handle_that_can_write(monkeypatch, tmp_path):
    """Windows refuses to flush a file that is open for reading only."""
    flushed = []

    def fsync(handle: int) -> None:
        os.write(handle, b"")  # EBADF of a handle that only reads
        flushed.append(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_file(tmp_path / "file") as temporary:
        temporary.write_bytes(b"content")
    assert flushed and (tmp_path / "file").read_bytes() == b"content"


def test_the_cache_has_its_place_on_windows(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert default_cache_folder() == Path.home() / ".cache" / "recbole_mambarec"
    monkeypatch.setattr(sys, "platform", "win32")
    assert default_cache_folder() == tmp_path / "local" / "recbole_mambarec"


def test_signals_without_a_name():
    assert how_it_ended(-250) == "its process was killed by signal 250"
    assert how_it_ended(3221225477) == "its process ended with status 3221225477"


def test_characters_that_the_terminal_lacks_are_no_defect(monkeypatch):
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="cp1252") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def main() -> None:
        print("0.1 ± 0.2 → 3")
        raise UserError("there is no model 'Модель'")

    with pytest.raises(SystemExit) as stop:
        run_main(main)
    for stream in (out, err):
        stream.flush()
    assert stop.value.code == 2
    assert out.buffer.getvalue().decode("cp1252").strip() == "0.1 ± 0.2 ? 3"
    assert err.buffer.getvalue().strip() == b"error: there is no model '??????'"
