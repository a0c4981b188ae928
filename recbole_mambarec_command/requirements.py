"""The requirements of this package: what is declared, what is installed, and what to do about the difference.

Bounds are read from the metadata of the installed package, or from ``setup.cfg`` in a source tree, so that they are
written down only once.
"""

from __future__ import annotations

import configparser
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from recbole_mambarec_command.command_line import ReportedError

DISTRIBUTION = "recbole-mambarec"
OLDEST_PYTHON = (3, 10)
#: the newest Python that the test suite was run with; newer ones are not refused
NEWEST_PYTHON = (3, 14)
RECBOLE = "1.2.1"
#: without its requirements: RecBole's metadata asks for a ray without a build for current Pythons, and this package
#: declares the others itself
INSTALL_RECBOLE = f"pip install --no-deps recbole=={RECBOLE}"
OUR_PACKAGES = (
    *("recbole_mambarec", "recbole_mambarec_command", "recbole_mambarec_common", "recbole_mambarec_serving"),
    "dataset_prep",
)

# distribution -> its module, where the names differ
_MODULES = {
    "faiss-cpu": "faiss",
    "kmeans-pytorch": "kmeans_pytorch",
    "pillow": "PIL",
    "python-louvain": "community",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "sentence-transformers": "sentence_transformers",
    "torch-geometric": "torch_geometric",
    "torch-scatter": "torch_scatter",
}
_DISTRIBUTIONS = {module: name for name, module in _MODULES.items()}


class MissingRequirement(ReportedError, ImportError):
    """A requirement is missing or broken; the message is one sentence that says what to do about it."""


class Requirement(NamedTuple):
    """A distribution that this package declares.

    Attributes:
        name: its name for pip.
        bounds: such as ``>=1.2,<3``; may be empty.
        extra: the extra of this package that requires it; None: it is always needed.
        parts: its own extras that are required, such as ``[tune]``.
    """

    name: str
    bounds: str
    extra: str | None
    parts: str = ""

    @property
    def module(self) -> str:
        """Its name in import statements."""
        return _MODULES.get(self.name, self.name.replace("-", "_"))

    @property
    def command(self) -> str:
        """The command that installs a release within the bounds."""
        return INSTALL_RECBOLE if self.name == "recbole" else f"pip install --upgrade {self.quoted}"

    @property
    def quoted(self) -> str:
        """Name and bounds, quoted for a shell."""
        return f'"{self.name}{self.parts}{self.bounds}"' if self.bounds or self.parts else self.name


def distribution_of(module: str) -> str:
    """The name for pip of the package that ``module`` belongs to."""
    top = module.partition(".")[0]
    return _DISTRIBUTIONS.get(top, top)


def declared() -> list[Requirement]:
    """All requirements for this Python: RecBole, then those that are always needed, then those of extras."""
    found: dict[tuple, Requirement] = {}
    for each in filter(None, map(_parsed, _lines())):
        # several lines may apply to one Python, each with a bound of its own
        earlier = found.get((each.name, each.extra), each._replace(bounds=""))
        bounds = dict.fromkeys(filter(None, [*earlier.bounds.split(","), *each.bounds.split(",")]))
        found[each.name, each.extra] = earlier._replace(bounds=",".join(bounds), parts=earlier.parts or each.parts)
    needed = [each for each in found.values() if each.name != "recbole"]
    needed.sort(key=lambda each: each.extra is not None)
    return [Requirement("recbole", f"=={RECBOLE}", None), *needed]


def version_of(name: str) -> str | None:
    """The installed version of a distribution; None if it is not installed or has no metadata."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def is_installed(module: str) -> bool:
    """Whether ``import module`` would find a module; it is not imported."""
    top = module.partition(".")[0]
    if top in sys.modules:
        return sys.modules[top] is not None
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def satisfies(version: str, bounds: str) -> bool:
    """Whether the numbers of a version are within bounds such as ``>=1.2,<3``; True if that cannot be decided."""
    for bound in filter(None, (part.strip() for part in bounds.split(","))):
        match = re.match(r"(>=|<=|==|!=|<|>|~=)\s*([\d.]+)", bound)
        numbers = _numbers(version)
        if match is None or not numbers:
            continue
        operator, limit = match[1], _numbers(match[2])
        length = max(len(numbers), len(limit))
        left, right = ((*part, *[0] * (length - len(part))) for part in (numbers, limit))
        held = {
            ">=": left >= right,
            "~=": left >= right and left[: len(limit) - 1] == right[: len(limit) - 1],
            "<=": left <= right,
            "==": left == right,
            "!=": left != right,
            "<": left < right,
            ">": left > right,
        }[operator]
        if not held:
            return False
    return True


def check() -> None:
    """Check Python and RecBole; other packages show when they are imported.

    Raises:
        MissingRequirement: Python is too old, or RecBole is missing or another release.
    """
    check_python()
    if not is_installed("recbole"):
        raise MissingRequirement(
            f"recbole_mambarec needs RecBole {RECBOLE}, which is not installed: {install_command(missing())}"
        )
    found = version_of("recbole")
    if found is not None and found != RECBOLE:
        raise MissingRequirement(
            f"recbole_mambarec needs RecBole {RECBOLE}, but {found} is installed: {INSTALL_RECBOLE}"
        )


def check_python() -> None:
    """Check the version of Python.

    Raises:
        MissingRequirement: it is too old.
    """
    if sys.version_info[:2] < OLDEST_PYTHON:
        raise MissingRequirement(
            f"recbole_mambarec needs Python {_dotted(OLDEST_PYTHON)} or newer, but this is "
            f"{_dotted(sys.version_info[:3])} ({sys.executable}): create an environment with a newer one, such as "
            "python3.12 -m venv .venv"
        )


def missing() -> list[Requirement]:
    """Requirements that are always needed and are not installed."""
    return [each for each in declared() if each.extra is None and not is_installed(each.module)]


def explained(error: BaseException) -> MissingRequirement | None:
    """The missing or broken requirement behind an error that was raised while this package was imported.

    None if the error is a defect of this package. Recognised are missing modules, and packages whose own import has
    failed with an error of any type.
    """
    if isinstance(error, MissingRequirement):
        return error
    module = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and module in OUR_PACKAGES and not is_installed(module):
        # an editable installation only knows the packages that there were when it was made
        return MissingRequirement(
            f"the installation of recbole_mambarec is older than its source and lacks the package {module}: install it "
            "again (pip install -e . in the source tree)"
        )
    if isinstance(error, ModuleNotFoundError) and module not in ("", *OUR_PACKAGES) and not is_installed(module):
        lacking = missing()
        if all(each.module != module for each in lacking):
            lacking.insert(0, Requirement(distribution_of(module), "", None))
        names = ", ".join(each.name for each in lacking)
        one = len(lacking) == 1
        sentence = (
            f"recbole_mambarec needs the package{'' if one else 's'} {names}, which {'is' if one else 'are'} not "
            f"installed: {install_command(lacking)}"
        )
    else:
        broken = broken_package(error)
        if broken is None:
            return None
        sentence = f"recbole_mambarec needs the package {broken_sentence(broken, error)}"
    if sys.version_info[:2] > NEWEST_PYTHON:
        sentence += (
            f" (Python {_dotted(sys.version_info[:2])} is newer than {_dotted(NEWEST_PYTHON)}, the last that "
            "recbole_mambarec was tested with: if a package has no build for it, use that one)"
        )
    return MissingRequirement(sentence)


def broken_package(error: BaseException) -> str | None:
    """The top-level module whose own import has raised ``error``; None if the error was raised elsewhere."""
    importing = [
        frame.f_globals.get("__name__", "").partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_name == "<module>"
    ]
    theirs = importing[-1:] if importing and importing[-1] not in ("__main__", *OUR_PACKAGES) else []
    if theirs:
        return theirs[0]
    # an extension module has no frame of its own
    module = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ImportError) else ""
    return module if module and module not in OUR_PACKAGES else None


def broken_sentence(module: str, error: BaseException) -> str:
    """Part of a sentence: name and version of a broken package, the error, and the command that repairs it."""
    name = distribution_of(module)
    version = version_of(name)
    return (
        f"{name}{f' {version}' if version else ''}, which is installed but cannot be imported ({reason(error)}): "
        f"{repair_command(name)}"
    )


def repair_command(name: str) -> str:
    """The command that reinstalls a broken distribution, without touching a torch that works."""
    if name == "recbole":
        return INSTALL_RECBOLE.replace("--no-deps", "--no-deps --force-reinstall")
    what = next((each.quoted for each in declared() if each.name == name), name)
    torch = re.match(r"2\.(\d+)[^+]*\+?(\w*)$", version_of("torch") or "")
    index = f" --index-url https://download.pytorch.org/whl/{torch[2]}" if torch and torch[2] else ""
    if name == "torch":
        # with its requirements: CUDA's libraries may be the broken part
        return f"pip install --force-reinstall {what}{index}"
    if name == "torchvision" and torch:
        # each release is built for one release of torch: https://github.com/pytorch/vision#installation
        return f"pip install --force-reinstall --no-deps torchvision==0.{int(torch[1]) + 15}.*{index}"
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        lines = []
    # usually it conflicts with one of its requirements, so they are reinstalled, too, except for torch
    alone = any(re.match(r"torch\b(?!-)", line) for line in lines)
    return f"pip install --upgrade --force-reinstall {'--no-deps ' if alone else ''}{what}"


def reason(error: BaseException) -> str:
    """Type and message of an exception in one line of limited length."""
    words = " ".join(str(error).split())
    words = words if len(words) <= 200 else words[:197] + "..."
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def install_command(requirements: list[Requirement]) -> str:
    """The commands that install all of them, in one line."""
    others = [each for each in requirements if each.name != "recbole"]
    commands = [f"pip install {' '.join(each.quoted for each in others)}"] if others else []
    if any(each.name == "recbole" for each in requirements):
        commands.append(INSTALL_RECBOLE)
    return ", then ".join(commands)


def _lines() -> Iterator[str]:
    """Requirements as in metadata: ``name>=1.2; extra == "prep"``."""
    source = Path(__file__).resolve().parents[1] / "setup.cfg"
    if source.is_file():
        # not the metadata: the tree may be newer than its installation
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(source, encoding="utf-8")
        if parser.get("metadata", "name", fallback="").replace("-", "_") == "recbole_mambarec":
            yield from _of_option(parser.get("options", "install_requires", fallback=""))
            extras = parser["options.extras_require"] if parser.has_section("options.extras_require") else {}
            for extra, text in extras.items():
                for line in _of_option(text):
                    name, _, marker = line.partition(";")
                    yield f'{name}; extra == "{extra}"' + (f" and {marker.strip()}" if marker.strip() else "")
            return
    try:
        yield from metadata.requires(DISTRIBUTION) or ()
    except metadata.PackageNotFoundError:
        return


def _of_option(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def _parsed(line: str) -> Requirement | None:
    """The requirement of a line of metadata; None if it is for another Python."""
    what, _, marker = line.partition(";")
    match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(\[[^\]]*\])?\s*\(?([^)]*)\)?\s*$", what)
    if match is None:
        return None
    for operator, limit in re.findall(r"python_version\s*([<>=!]+)\s*[\"']([\d.]+)[\"']", marker):
        if not satisfies(_dotted(sys.version_info[:2]), f"{operator}{limit}"):
            return None
    extra = re.search(r"extra\s*==\s*[\"']([^\"']+)[\"']", marker)
    name = re.sub(r"[-_.]+", "-", match[1]).lower()
    bounds = ",".join(sorted(match[3].replace(" ", "").split(","), reverse=True))
    return Requirement(name, bounds, None if extra is None else extra[1], match[2] or "")


def _numbers(version: str) -> tuple:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _dotted(version: tuple) -> str:
    return ".".join(map(str, version))
