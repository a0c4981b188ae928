"""Processes that have imported this package already, for tests that start many: importing torch takes seconds.

A server imports the package once, and each process is forked from it. On other systems than Linux a process starts
from nothing instead. What a test says about imports, hash seeds or the state of a fresh interpreter needs
:mod:`subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import context as contexts
from pathlib import Path

import psutil
import torch._dynamo  # noqa: F401  (torch imports it with the first optimiser)

# what runs and searches import
from recbole_mambarec.experiments import group, hyper, processes, trial  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
# macOS has libraries that a forked process may not use
CAN_FORK = sys.platform == "linux"

# RecBole watches the processor for a second at the end of every run, to print how busy it is
_cpu_percent = psutil.cpu_percent
psutil.cpu_percent = lambda interval=None, percpu=False: _cpu_percent(None, percpu)

if CAN_FORK:

    class _Process(contexts.ForkServerProcess):
        """A process with the environment that its parent has when it starts it, not with that of the server."""

        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            self._environment = dict(os.environ)

        def run(self) -> None:
            os.environ.clear()
            os.environ.update(self._environment)
            super().run()

    class _Context(contexts.ForkServerContext):
        Process = _Process

    _context = _Context()
    _context.set_forkserver_preload([__name__])


def server() -> multiprocessing.context.BaseContext:
    """A context of :mod:`multiprocessing` whose processes have imported the package."""
    if not CAN_FORK:
        return multiprocessing.get_context("spawn")
    # the server takes the folders in which it looks for modules from its environment
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        from multiprocessing import forkserver

        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return _context


class Python:
    """``python ARGUMENTS`` in a session of its own, as :class:`subprocess.Popen` with the output as text.

    Args:
        arguments: ``-m``, a module and its arguments; ``-c``, code and its arguments; or a script and its arguments.
        cwd: where it runs; None: in the present folder.
        env: its environment; None: the present one.
    """

    def __init__(self, *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name, name) for name in ("out", "err")]
        cwd, env = cwd or Path.cwd(), dict(os.environ if env is None else env)
        self._process = (_forked if CAN_FORK else _started)([*map(str, arguments)], cwd, env, self._outputs)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, negative where a signal has killed it; None while it runs."""
        return self._process.exitcode if CAN_FORK else self._process.poll()

    def wait(self, timeout: float = 300) -> int:
        """Its exit status, once it has ended; it is killed after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL if CAN_FORK else signal.SIGTERM)
                raise TimeoutError(f"more than {timeout} s; {self.output()[-2000:]}")
            time.sleep(0.01)
        return self.poll()

    def output(self) -> str:
        """What it has written so far."""
        return "".join(file.read_text(encoding="utf-8", errors="replace") for file in self._outputs)

    def completed(self) -> subprocess.CompletedProcess:
        """Wait for its end; as :func:`subprocess.run`."""
        status = self.wait()
        texts = [file.read_text(encoding="utf-8") for file in self._outputs]
        self._folder.cleanup()
        return subprocess.CompletedProcess([], status, *texts)


def python(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Run :class:`Python` to its end."""
    return Python(*arguments, cwd=cwd, env=env).completed()


def _started(arguments: list[str], cwd: Path, env: dict[str, str], outputs: list[Path]) -> subprocess.Popen:
    with open(outputs[0], "wb") as out, open(outputs[1], "wb") as err:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=env | {"PYTHONIOENCODING": "utf-8"},
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def _forked(arguments: list[str], cwd: Path, env: dict[str, str], outputs: list[Path]) -> multiprocessing.Process:
    process = server().Process(target=_interpret, args=(arguments, str(cwd), env, [*map(str, outputs)]))
    process.start()
    return process


def _interpret(arguments: list[str], cwd: str, env: dict[str, str], outputs: list[str]) -> None:
    """What ``python ARGUMENTS`` does after its start."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(outputs, 1):
        with open(file, "wb") as stream:
            os.dup2(stream.fileno(), number)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8")
    os.chdir(cwd)
    # where processes that it spawns look for the script
    multiprocessing.process.ORIGINAL_DIR = cwd
    os.environ.clear()
    os.environ.update(env)
    # what this process starts is forked from it
    processes._CONTEXT = multiprocessing.get_context("fork")
    kind, *rest = arguments
    first = str(Path(kind).resolve().parent) if kind not in ("-m", "-c") else cwd if kind == "-m" else ""
    given = env.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [first, *filter(None, given), *(path for path in sys.path if _is_of_python(path))]
    if kind == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        sys.argv[:] = arguments
        runpy.run_path(kind, run_name="__main__")


def _is_of_python(path: str) -> bool:
    """Whether Python itself put a folder into ``sys.path``."""
    return any(path.startswith(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix))
