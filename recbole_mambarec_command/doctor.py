"""``recbole-mambarec doctor``: what is installed, what works, and the command that repairs what does not.

Because anything may be missing or broken, it uses the standard library only, and imports everything else in a child
process (:mod:`~recbole_mambarec_command.probe`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from recbole_mambarec_command import __version__, probe, requirements
from recbole_mambarec_command.requirements import DISTRIBUTION, Requirement

OK, NOTE, MISSING, BROKEN = "ok", "note", "missing", "broken"
# seconds after which an import is considered to hang: sentence-transformers takes half a minute from a slow disk
_TIMEOUT = 120
# the same after one import has hung, because packages that need that one will hang, too
_TIMEOUT_OF_OTHERS = 20
# seconds after which a terminal shows which import is being waited for
_PATIENCE = 2

_PURPOSES = {
    "hyperopt": "searches for hyper-parameters (tune)",
    "ray": "searches on a cluster (tune --tool=ray)",
    "compare": "results per user (compare)",
    "report": "tables and charts (report)",
    "prep": "raw files larger than memory, pictures of a dataset (prepare)",
    "ann": "item neighbours of catalogues of more than 100 000 items",
    "features": "encoders of texts and images (prepare)",
}
# packages for single models and options of RecBole, which are checked only if they are installed
_OF_RECBOLE = {
    "lightgbm": "RecBole's model LightGBM",
    "xgboost": "RecBole's model XGBoost",
    "dgl": "some of RecBole's models",
    "networkx": "RecBole's NNCF and HGCF",
    "wandb": "log_wandb",
}


class Line(NamedTuple):
    """The result of one check.

    Attributes:
        section: its heading.
        name: what was checked.
        status: ``ok``; ``note``: it works, with a remark; ``missing``; ``broken``.
        detail: the version, or what is wrong.
        fix: the command that repairs it.
        needed: nothing works without it.
    """

    section: str
    name: str
    status: str
    detail: str
    fix: str | None = None
    needed: bool = False

    @property
    def fails(self) -> bool:
        """Whether it makes the exit status 1."""
        return self.status == BROKEN or (self.status == MISSING and self.needed)


def main(argv: list[str] | None = None, prog: str = "recbole-mambarec doctor") -> int:
    """Print the results of :func:`examine`; returns 1 if something needed is missing or anything is broken, else 0."""
    try:
        return _main(argv, prog)
    except BrokenPipeError:
        # the reader has ended, as head does: Python must not try to write the rest when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _main(argv: list[str] | None, prog: str) -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Check what is installed, what works and what is missing, and show the commands that repair it. "
        "Exit status 0 if everything needed works and nothing installed is broken, else 1.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON, for programs")
    parser.add_argument("--data_path", default="dataset", help="the folder of datasets (default %(default)s)")
    parser.add_argument(
        "--timeout",
        type=float,
        default=_TIMEOUT,
        help="seconds that an import may take (default %(default)s)",
    )
    options = parser.parse_args(argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # messages may contain characters that the terminal lacks
    lines: list[Line] = []
    for line in examine(Path(options.data_path), options.timeout):
        if not options.json:
            if not lines or lines[-1].section != line.section:
                print(f"{'' if not lines else chr(10)}{line.section}")
            print(f"  {line.status:8} {line.name}: {line.detail}")
            if line.fix:
                print(f"  {'':8} -> {line.fix}", flush=True)
        lines.append(line)
    failing = [line for line in lines if line.fails]
    if options.json:
        print(json.dumps({"ok": not failing, "lines": [line._asdict() for line in lines]}, indent=2))
    elif failing:
        print(f"\nto repair: {', '.join(line.name for line in failing)}")
        lacking = [each for each in requirements.missing() if each.name in {line.name for line in failing}]
        if len(lacking) > 1:
            print(f"to install everything missing: {requirements.install_command(lacking)}")
    else:
        print("\neverything needed works")
    return int(bool(failing))


def examine(data_path: Path, timeout: float = _TIMEOUT) -> Iterator[Line]:
    """All checks, each result as soon as it is known."""
    yield from _system()
    declared = requirements.declared()
    found: dict[str, dict] = {}
    needed = [each for each in declared if each.extra is None]
    optional: dict[str, list[Requirement]] = {}
    for each in declared:
        if each.extra not in (None, "dev") and all(each.name != other.name for other in needed):
            optional.setdefault(each.name, []).append(each)
    installed = {each.module for each in declared if requirements.is_installed(each.module)}
    lone = [name for name in _OF_RECBOLE if requirements.is_installed(name)]
    modules = [each.module for each in needed if each.module in installed]
    # numpy first and RecBole last, so that an error that affects several packages is reported for its cause
    modules.sort(key=lambda module: (module == "recbole", module not in ("numpy", "scipy", "pandas", "torch")))
    modules.append(probe.START)
    modules += [each[0].module for each in optional.values() if each[0].module in installed]
    answers = _probed(modules + [name for name in lone if name not in modules], timeout)
    for name, answer in answers:
        found[name] = answer
        if name == "torch":
            yield _torch_line(answer, next(each for each in needed if each.name == "torch"))
        elif name == probe.START:
            for each in needed:
                if each.module not in installed:
                    yield Line("Needed", each.name, MISSING, "not installed", each.command, True)
            yield _start_line(answer, [each for each in needed if each.module not in installed])
            for model, result in answer.get("outside", {}).items():
                status = BROKEN if "error" in result else OK
                yield Line("Models of other packages", model, status, result.get("error", result["package"]))
        else:
            requirement = next((each for each in needed if each.module == name), None)
            extras = next((each for each in optional.values() if each[0].module == name), None)
            if requirement is not None:
                yield _package_line("Needed", requirement, answer, "", True)
            elif extras is not None:
                yield _package_line("Optional", extras[0], answer, _purpose(extras), False)
            else:
                yield _package_line("Optional", Requirement(name, "", "of RecBole"), answer, _OF_RECBOLE[name], False)
    for name, extras in optional.items():
        if extras[0].module not in installed:
            fix = f'pip install "{DISTRIBUTION}[{extras[0].extra}]"'
            yield Line("Optional", name, MISSING, f"not installed: {_purpose(extras)}", fix)
    yield from _conflicts(declared)
    yield from _machine(data_path, found.get(probe.START, {}))


# ------------------------------------------------------------------------------------------------------------
# the checks


def _system() -> Iterator[Line]:
    python = ".".join(map(str, sys.version_info[:3]))
    version = sys.version_info[:2]
    detail, status, fix = f"{python} ({sys.executable})", OK, None
    oldest, newest = (".".join(map(str, v)) for v in (requirements.OLDEST_PYTHON, requirements.NEWEST_PYTHON))
    if version < requirements.OLDEST_PYTHON:
        status, fix = BROKEN, "create an environment with a newer one, such as: python3.12 -m venv .venv"
        detail += f" is older than {oldest}, which is needed"
    elif version > requirements.NEWEST_PYTHON:
        status, detail = NOTE, f"{detail} is newer than {newest}, the last that was tested"
    yield Line("System", "Python", status, detail, fix, True)
    yield Line("System", "operating system", OK, f"{platform.platform()} ({platform.machine()})")
    where = Path(__file__).resolve().parents[1]
    installed = requirements.version_of(DISTRIBUTION)
    detail = f"{__version__} ({where})"
    if installed is not None and installed != __version__:
        fix = f"pip install -e {where}" if (where / "setup.cfg").is_file() else f"pip install --upgrade {DISTRIBUTION}"
        yield Line("System", DISTRIBUTION, NOTE, f"{detail}, but its metadata are those of {installed}", fix)
    else:
        yield Line("System", DISTRIBUTION, OK, detail + ("" if installed else ", not installed: a source tree"))


def _package_line(section: str, each: Requirement, answer: dict, purpose: str, needed: bool) -> Line:
    version = requirements.version_of(each.name) or answer.get("version")
    shown = " ".join(filter(None, [version, f"({purpose})" if purpose else ""])) or "installed"
    if "error" in answer:
        culprit = answer.get("culprit")
        name = requirements.distribution_of(culprit) if culprit else each.name
        why = "" if name == each.name else f", because {name} cannot"
        detail = f"{version or 'it'} cannot be imported{why} ({answer['error']})"
        return Line(section, each.name, BROKEN, detail, requirements.repair_command(name), needed)
    if version and not requirements.satisfies(version, each.bounds):
        detail = f"{version} is installed, but {each.bounds} is needed"
        return Line(section, each.name, BROKEN, detail, each.command, needed)
    return Line(section, each.name, OK, shown, None, needed)


def _torch_line(answer: dict, each: Requirement) -> Line:
    line = _package_line("Needed", each, answer, "", True)
    if line.status != OK:
        return line
    driver = _nvidia()
    kinds = {"CUDA": answer["cuda"], "ROCm": answer["hip"]}
    build = next((f"{kind} {release}" for kind, release in kinds.items() if release), "the CPU")
    detail = f"{answer['version']}, built for {build}"
    fix = _torch_for(driver)
    if answer.get("cuda_error"):
        why = f"{', '.join(answer['devices'])} is visible but cannot compute ({answer['cuda_error']})"
        return line._replace(status=BROKEN, detail=f"{detail}; {why}", fix=fix)
    if answer["sees"]:
        return line._replace(detail=f"{detail}, on {', '.join(answer['devices'])}")
    if answer["mps"]:
        return line._replace(detail=f"{detail}; RecBole computes on the CPU (Apple's GPU is not used)")
    if driver is None:
        return line._replace(detail=f"{detail}; there is no GPU")
    if not answer["cuda"]:
        detail += f"; there is a GPU ({driver.gpu}), which this build cannot use"
        return line._replace(status=NOTE, detail=detail, fix=fix)
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return line._replace(status=NOTE, detail=f"{detail}; CUDA_VISIBLE_DEVICES hides the GPU ({driver.gpu})")
    reason = next((text for text in answer["warnings"] if "CUDA" in text or "driver" in text), "it gives no reason")
    detail += f"; the GPU ({driver.gpu}, driver {driver.version} for CUDA up to {driver.cuda}) cannot be used"
    detail += f": {reason[:300]}"
    return line._replace(status=BROKEN, detail=detail, fix=fix)


class _Driver(NamedTuple):
    gpu: str
    version: str
    cuda: str


def _nvidia() -> _Driver | None:
    """The first GPU and its driver, from NVIDIA's own tool; None without one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        query = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
        header = subprocess.run([tool], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    first = answer.strip().splitlines()[:1]
    if not first or "," not in first[0]:
        return None
    name, version = (part.strip() for part in first[0].rsplit(",", 1))
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", header)
    return _Driver(name, version, cuda[1] if cuda else "an unknown version")


def _torch_for(driver: _Driver | None) -> str:
    """The command for a build that the driver can run; drivers run all builds for their major version of CUDA."""
    major = driver.cuda.partition(".")[0] if driver else ""
    index = {"11": "cu118", "12": "cu126"}.get(major) or ("cu130" if major.isdecimal() and int(major) > 12 else None)
    if index is None:
        return "update the driver, or choose a build at https://pytorch.org/get-started/locally/"
    return f"pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/{index}"


def _start_line(answer: dict, lacking: list[Requirement]) -> Line:
    if lacking:
        detail = f"cannot be checked without {', '.join(each.name for each in lacking)}"
        return Line("Needed", "RecBole with these models", MISSING, detail, None, True)
    if "error" in answer:
        detail = answer.get("sentence") or f"does not start ({answer['error']})"
        return Line("Needed", "RecBole with these models", BROKEN, detail, None, True)
    detail = f"RecBole works; {answer['models']} models of this package, {answer['of_recbole']} of RecBole"
    return Line("Needed", "RecBole with these models", OK, detail, None, True)


def _purpose(extras: list[Requirement]) -> str:
    return "; ".join(dict.fromkeys(_PURPOSES.get(each.extra, f"[{each.extra}]") for each in extras))


def _conflicts(declared: list[Requirement]) -> Iterator[Line]:
    """Required packages that need other releases of each other than those installed."""
    try:
        from packaging.requirements import InvalidRequirement
        from packaging.requirements import Requirement as Parsed
    except Exception:
        return
    for name in dict.fromkeys(each.name for each in declared if each.name != "recbole"):
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in lines:
            try:
                one = Parsed(line)
            except InvalidRequirement:
                continue
            version = requirements.version_of(one.name)
            if version is None or (one.marker and not one.marker.evaluate({"extra": ""})):
                continue
            if not one.specifier.contains(version, prereleases=True):
                detail = f"needs {one.name}{one.specifier}, but {version} is installed"
                yield Line("Optional", name, NOTE, detail, f'pip install "{one.name}{one.specifier}"')


def _machine(data_path: Path, started: dict) -> Iterator[Line]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Line("This machine", "cores", OK, str(cores))
    free = started.get("free_gib", _free_gib())
    yield Line("This machine", "free memory", OK, "unknown" if free is None else f"{free:.1f} GiB")
    disk = shutil.disk_usage(".").free / 2**30
    status, fix = (OK, None) if disk > 1 else (NOTE, "checkpoints and logs are written here: free some space")
    yield Line("This machine", "free disk, this folder", status, f"{disk:.1f} GiB", fix)
    if "cache" in started:
        yield _cache_line(Path(started["cache"]))
    yield from _datasets(data_path)


def _free_gib() -> float | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, OSError, ValueError):
        return None


def _cache_line(folder: Path) -> Line:
    """The folder of cached item graphs, which can always be deleted."""
    sizes = [path.stat().st_size for path in folder.glob("*") if path.is_file()] if folder.is_dir() else []
    detail = f"{folder}: {len(sizes)} entries, {sum(sizes) / 2**20:.1f} MiB"
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        fix = "set another folder with --cache_dir=FOLDER or the variable XDG_CACHE_HOME"
        return Line("This machine", "cache of item graphs", BROKEN, f"{folder} is not writable", fix)
    return Line("This machine", "cache of item graphs", OK, detail)


def _datasets(folder: Path) -> Iterator[Line]:
    prepare = "recbole-mambarec prepare --help"
    if not folder.is_dir():
        detail = f"there is no folder {folder} here; ml-100k, which comes with RecBole, can be used"
        yield Line("This machine", "datasets", NOTE, detail, prepare)
        return
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.inter")))
    except OSError as error:
        yield Line("This machine", "datasets", BROKEN, f"{folder} cannot be read ({error.strerror})")
        return
    if not names:
        yield Line("This machine", "datasets", NOTE, f"there are none in {folder}", prepare)
        return
    shown = []
    for name in names[:20]:
        kinds = sorted(path.name[len(name) + 1 : -4] for path in (folder / name).glob(f"{name}.*.npy"))
        shown.append(f"{name} ({', '.join(kinds)})" if kinds else name)
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    yield Line("This machine", "datasets", OK, f"in {folder}: {', '.join(shown)}{more}")


# ------------------------------------------------------------------------------------------------------------
# the child process


def _probed(names: list[str], timeout: float) -> Iterator[tuple[str, dict]]:
    """The child's answer for each name, in order; if a package ends it or hangs, another child continues."""
    left = list(names)
    while left:
        for name, answer in _one_child(left, timeout):
            left.remove(name)
            if answer.get("hangs"):
                timeout = min(timeout, _TIMEOUT_OF_OTHERS)
            yield name, answer


def _one_child(names: list[str], timeout: float) -> Iterator[tuple[str, dict]]:
    code = f"import sys; sys.path[:] = {sys.path!r}\nfrom recbole_mambarec_command.probe import main; main({names!r})"
    # the output of packages is hidden from the user, but a last line before the process ends is shown
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    lines: queue.Queue = queue.Queue()

    def read() -> None:
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    current, last = names[0], ""
    try:
        while True:
            line = _next(lines, current, timeout)
            if line is _HANGS:
                error = f"its import does not end within {timeout:g} seconds"
                yield current, {"error": error, "hangs": True}
                return
            if line is None:
                status = child.wait()
                if current is not None:
                    how = f"signal {-status}" if status < 0 else f"exit status {status}"
                    yield current, {"error": f"its import ends the process, {how}{last and f', after: {last[:200]}'}"}
                return
            if not line.startswith(probe.MARK):
                last = line.strip() or last
                continue
            message = json.loads(line[len(probe.MARK) :])
            if "begin" in message:
                current, last = message["begin"], ""
            else:
                current = None
                yield message.pop("end"), message
    finally:
        child.kill()
        child.wait()


_HANGS = object()


def _next(lines: queue.Queue, name: str | None, timeout: float):
    """The next line of the child; meanwhile, a terminal shows what is being waited for."""
    end, shown = time.monotonic() + timeout, False
    try:
        while time.monotonic() < end:
            try:
                return lines.get(timeout=min(_PATIENCE, max(end - time.monotonic(), 0.01)))
            except queue.Empty:
                if sys.stderr.isatty() and name:
                    shown = True
                    print(f"\r  ... {name}\033[K", end="", file=sys.stderr, flush=True)
        return _HANGS
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
