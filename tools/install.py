"""Install recbole_mambarec from this source tree: into .venv (what make does), or with --here where you are.

    python tools/install.py                     what a run needs, in .venv
    python tools/install.py --extras=dev        and what the tests need
    python tools/install.py --here              into the environment of this very Python (conda, Colab)

torch comes first, unless it is there: then it is kept, whatever build it is. RecBole comes without its own
requirements, which have no solution on current Pythons; the package names them itself (setup.cfg).

Only the standard library is used, and only syntax that Python 2 understands: a Python that is too old shall
read its sentence rather than a SyntaxError.
"""

from __future__ import print_function

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, NEWEST = (3, 10), (3, 14)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

# Megabytes of wheels for torch 2.13.0 and all that it needs on the systems that PyPI has it for, whether that build
# is for CUDA, and of all other packages without and with the extra [dev], as "uv lock" lists them
TORCH_SIZES = {
    ("Linux", "x86_64"): (2741, True),
    ("Linux", "aarch64"): (2868, True),
    ("Darwin", "arm64"): (124, False),
    ("Windows", "AMD64"): (135, False),
}
CPU_SIZE = 200
OTHER_SIZE, DEV_SIZE = 110, 360

NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|Name or service not known|getaddrinfo failed|"
    r"ConnectTimeout|ReadTimeout|Read timed out|Connection (?:refused|reset|aborted)|Network is unreachable|"
    r"ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED|IncompleteRead|Temporary failure"
)
LARGE_DOWNLOAD = re.compile(r"\s*Downloading .*\([\d.]+ [MG]B\)")
NO_BUILD = re.compile(r"No matching distribution found for ([^\s;(]+)")


class Fault(Exception):
    """What the user has to know, in one sentence with the command that mends it."""


def main(argv=None):
    """Install, and return the exit status: 0, or 2 after one sentence on standard error, 130 after Ctrl-C."""
    try:
        check_this_python()
        install(read_options(argv))
    except Fault as fault:
        sys.stdout.flush()
        print("error: {}".format(fault), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on, what was downloaded completely is kept", file=sys.stderr)
        return 130
    return 0


def read_options(argv):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python tools/install.py",
        description="Install recbole_mambarec from its source tree: torch unless it is there, RecBole, the package.",
    )
    parser.add_argument("--extras", default="", help="extras of setup.cfg, separated by commas: dev, report, ray, ...")
    parser.add_argument("--torch-index", default="", help="where torch comes from, e.g. " + CPU_INDEX)
    parser.add_argument("--venv", default=".venv", help="folder of the environment (default .venv)")
    parser.add_argument("--here", action="store_true", help="install for the Python that runs this, without a folder")
    parser.add_argument(
        "--any-python", action="store_true", help="an environment that another Python made will do as well"
    )
    parser.add_argument("--make", default="", metavar="ARGUMENTS", help="what make runs this for (messages name it)")
    options = parser.parse_args(argv)
    options.extras = sorted(set(filter(None, options.extras.replace(" ", "").split(","))))
    unknown = sorted(set(options.extras) - set(known_extras()))
    if unknown:
        raise Fault("there is no extra '{}': use {}".format(unknown[0], ", ".join(known_extras())))
    return options


def install(options):
    """Make the environment and whatever is missing in it.

    Raises:
        Fault: something is in the way.
    """
    again, remove = commands(options)
    if options.here:
        python, stamp = sys.executable, None
    else:
        python = environment(options, again, remove)
        stamp = os.path.join(options.venv, "installed.json")
    before = read_stamp(stamp)
    extras = sorted(set(options.extras) | set(before.get("extras", [])))
    now = {"extras": extras, "key": tree_key()}
    if before == now:
        return
    log = os.path.join(tempfile.gettempdir() if options.here else options.venv, "install.log")
    pip = Pip(python, log, again)
    torch = installed(python, "torch")
    if torch:
        keep_torch(torch, python, options, remove)
    announce(options, torch, extras)
    pip.need_pip()
    if not torch:
        pip.install("torch", *torch_arguments(options))
        torch = installed(python, "torch")
    constraints = write_constraints(torch)
    try:
        pip.install(
            "recbole_mambarec" + ("[{}]".format(",".join(extras)) if extras else ""),
            "-c", constraints, "-e", ROOT + ("[{}]".format(",".join(extras)) if extras else ""),
        )  # fmt: skip
        # last, because pip complains of its requirements whenever it installs something else afterwards
        pip.install("RecBole", "--no-deps", "recbole==" + pinned("recbole"))
    finally:
        os.remove(constraints)
    write_stamp(stamp, now)
    print("installed{}".format(" for " + python if options.here else " in " + options.venv))


# ------------------------------------------------------------------------------------------------------------
# Pythons and environments


def check_this_python():
    """Refuse a Python that is too old or too new, and name one that is there.

    Raises:
        Fault: it is.
    """
    fault = version_fault(sys.version_info[:2])
    if fault:
        raise Fault(
            "{} ({} is Python {}): {}".format(fault, sys.executable, platform.python_version(), other_pythons())
        )


def version_fault(version):
    """What is wrong with a Python version, or None."""
    if OLDEST <= tuple(version) <= NEWEST:
        return None
    return "Python {} to {} is needed".format(dotted(OLDEST), dotted(NEWEST))


def other_pythons():
    """What to do about it: the command with a Python that is on the path and starts, if there is one."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        name = "python3.{}".format(minor)
        if version_of(name) == (3, minor):
            return "use {0}, which is installed: make run PYTHON={0}, or {0} tools/install.py".format(name)
    return "install one, then make run PYTHON=python{0}, or python{0} tools/install.py".format(dotted(NEWEST))


def version_of(python):
    """Version of an interpreter, (3, 12); None if it does not start."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    text = answer(python, code)
    return tuple(int(part) for part in text.split(".")) if re.match(r"^\d+\.\d+$", text or "") else None


def environment(options, again, remove):
    """The Python of the environment, which is made if it is not there.

    Raises:
        Fault: it is there, but broken or made by another Python; or it cannot be made.
    """
    folder = options.venv
    python = os.path.join(folder, "Scripts", "python.exe") if os.name == "nt" else os.path.join(folder, "bin", "python")
    if not os.path.isdir(folder):
        if os.path.lexists(folder):
            raise Fault("{} is no folder: move it away, then {}".format(folder, again))
        make_environment(folder, again)
    version = version_of(python)
    if version is None:
        raise Fault(
            "the environment {} is broken, its Python does not start: {}, then {}".format(folder, remove, again)
        )
    asked = tuple(sys.version_info[:2])
    if version != asked and (version_fault(version) or not options.any_python):
        raise Fault(
            "the environment {} was made by Python {}, and Python {} is asked for: {}, then {}".format(
                folder, dotted(version), dotted(asked), remove, again
            )
        )
    return python


def make_environment(folder, again):
    """Make an environment, or leave nothing behind.

    Raises:
        Fault: this Python cannot.
    """
    done = None
    try:
        done = subprocess.Popen(
            [sys.executable, "-m", "venv", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output = done.communicate()[0].decode("utf-8", "replace")
    finally:
        if done is None or done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
    if done.returncode != 0:
        raise Fault(
            "Python {0} cannot make an environment ({1}): install its modules venv and ensurepip (on Debian and "
            "Ubuntu: apt install python{0}-venv), then {2}".format(
                dotted(sys.version_info[:2]), last_line(output), again
            )
        )


def answer(python, code):
    """What an interpreter prints; None if it does not start or fails."""
    try:
        with open(os.devnull, "w") as nowhere:
            done = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, stderr=nowhere)
            text = done.communicate()[0].decode("utf-8", "replace").strip()
    except OSError:
        return None
    return text if done.returncode == 0 else None


def installed(python, name):
    """Version of a package that an interpreter has; empty if it has none."""
    code = "from importlib.metadata import distributions as d; print(*[x.version for x in d(name='{}')][:1])"
    return answer(python, code.format(name)) or ""


def commands(options):
    """The command that is to be tried again, and the one that removes the environment."""
    if options.make:
        return "make " + options.make, "make clean"
    return "the same command again", "delete the folder {}".format(options.venv)


# ------------------------------------------------------------------------------------------------------------
# torch


def keep_torch(version, python, options, remove):
    """Say that the torch which is there is kept.

    Raises:
        Fault: it is too old.
    """
    least = least_torch(version_of(python))
    numbers = [int(part) for part in re.match(r"\d+(?:\.\d+)*", version).group(0).split(".")]
    if numbers < [int(part) for part in least.split(".")]:
        raise Fault(
            "torch {} is installed, and {} or newer is needed: pip install --upgrade torch".format(version, least)
        )
    note = ""
    if options.torch_index:
        note = "; {} is not looked at (for another torch, {} first)".format(
            options.torch_index, "pip uninstall torch" if options.here else remove
        )
    print("torch {} is there and is kept{}".format(version, note))


def least_torch(python):
    """The oldest torch that setup.cfg allows for a version of Python, (3, 12)."""
    bounds = re.findall(r"(?m)^ +torch>=([\d.]+)(?:; python_version >= \"3\.(\d+)\")?$", read("setup.cfg"))
    return [bound for bound, minor in bounds if not minor or python >= (3, int(minor))][-1]


def torch_arguments(options):
    """Arguments of pip that bring torch."""
    arguments = ["torch==" + pinned("torch")]
    if options.torch_index:
        # an index of PyTorch has what torch needs as well
        arguments += ["--index-url", options.torch_index]
    return arguments


def announce(options, torch, extras):
    """Say what will be downloaded, how large it is, and how to get less."""
    other = DEV_SIZE if "dev" in extras else OTHER_SIZE
    if torch:
        print("downloading up to {}, what is there already not again".format(size(other)))
        return
    version = pinned("torch")
    if options.torch_index:
        what = "torch {} from {}".format(version, options.torch_index)
        if options.torch_index.rstrip("/") == CPU_INDEX:
            what += " ({})".format(size(CPU_SIZE))
        print("downloading {} and up to {} of other packages".format(what, size(other)))
        return
    megabytes, cuda = TORCH_SIZES.get((platform.system(), platform.machine()), (None, False))
    if megabytes is None:
        print("downloading torch {} and up to {} of other packages".format(version, size(other)))
        return
    build = "for CUDA" if cuda else "for CPUs"
    print(
        "downloading up to {}: torch {} {} ({}) and other packages ({})".format(
            size(megabytes + other), version, build, size(megabytes), size(other)
        )
    )
    if cuda:
        driver = shutil.which("nvidia-smi") or os.path.exists("/proc/driver/nvidia/version")
        way = "TORCH_INDEX={}" if options.make else "--torch-index={}"
        print(
            "{}the build for CPUs is {}: stop this (Ctrl-C) and give {}".format(
                "without a GPU, " if driver else "this machine shows no NVIDIA driver, and ",
                size(CPU_SIZE),
                way.format(CPU_INDEX),
            )
        )
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------------------------
# pip


class Pip(object):
    """pip of one interpreter: downloads are shown, all else goes to a log, a failure becomes one sentence."""

    def __init__(self, python, log, again):
        self.python, self.log, self.again = python, log, again

    def need_pip(self):
        """Bring pip where the environment has none, as those of uv.

        Raises:
            Fault: it cannot be brought.
        """
        if answer(self.python, "import pip") is not None:
            return
        if answer(self.python, "import ensurepip; ensurepip.bootstrap()") is None:
            raise Fault("{} has no pip and cannot get it: install pip for it, then {}".format(self.python, self.again))

    def install(self, what, *arguments):
        """``pip install`` with these arguments.

        Raises:
            Fault: it failed.
        """
        print("installing {}".format(what))
        sys.stdout.flush()
        command = [self.python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        command.append("--progress-bar=off")
        command.extend(arguments)
        environ = dict(os.environ, PYTHONUNBUFFERED="1", NO_COLOR="1")
        with open(self.log, "ab") as log:
            log.write((" ".join(command) + "\n").encode("utf-8"))
            pip = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environ)
            lines = []
            try:
                for raw in pip.stdout:
                    log.write(raw)
                    line = raw.decode("utf-8", "replace").rstrip()
                    lines.append(line)
                    if LARGE_DOWNLOAD.match(line):
                        print("  " + line.strip())
                        sys.stdout.flush()
            finally:
                if pip.poll() is None and sys.exc_info()[0] is not None:
                    pip.terminate()
                pip.wait()
        if pip.returncode != 0:
            for line in relevant(lines):
                print("  " + line, file=sys.stderr)
            raise Fault(self.explained("\n".join(lines), what, arguments))

    def explained(self, output, what, arguments):
        """The failure of pip in one sentence."""
        where = "all that pip said is in {}".format(self.log)
        if NO_NETWORK.search(output):
            return (
                "pip could not download {}: look at the network, proxy and index that pip uses "
                "({} -m pip config list), then {}".format(what, self.python, self.again)
            )
        missing = NO_BUILD.search(output)
        if missing:
            index = arguments[arguments.index("--index-url") + 1] if "--index-url" in arguments else "the package index"
            return (
                "{} has no build of {} for Python {} on {} {}: take another Python or index, or install one that you "
                "have into the environment first, it is kept ({})".format(
                    index, missing.group(1), dotted(self.version()), platform.system(), platform.machine(), where
                )
            )
        if "No space left on device" in output or "not enough space" in output:
            return "the disk is full: free some space, then {}".format(self.again)
        if "externally-managed-environment" in output:
            return (
                "the Python of the operating system takes no packages from pip: leave --here out, or make an "
                "environment ({} -m venv FOLDER) and use its Python".format(self.python)
            )
        return "pip could not install {}: see the lines above, {}; then {}".format(what, where, self.again)

    def version(self):
        """Version of its Python."""
        return version_of(self.python) or sys.version_info[:2]


def relevant(lines, most=3):
    """The lines of pip's output that say why it failed: its last errors, without repetitions and what is too long."""
    errors = [line.strip() for line in lines if re.match(r"\s*(ERROR|error|fatal|\w*Error)\b", line)]
    chosen = errors or [line.strip() for line in lines if line.strip()]
    unique = [line for k, line in enumerate(chosen) if line not in chosen[:k]]
    return [line if len(line) <= 200 else line[:197] + "..." for line in unique[-most:]]


# ------------------------------------------------------------------------------------------------------------
# files of the tree


def read(name):
    """Text of a file of the tree."""
    with open(os.path.join(ROOT, name), "rb") as file:
        return file.read().decode("utf-8")


def pinned(name):
    """Version that constraints.txt has for a package, without a marker."""
    return re.search(r"^{}==([^\s;]+)\s*$".format(re.escape(name)), read("constraints.txt"), re.MULTILINE).group(1)


def known_extras():
    """Names of the extras in setup.cfg."""
    section = read("setup.cfg").split("[options.extras_require]", 1)[1].split("\n[", 1)[0]
    return re.findall(r"^(\w+) *=", section, re.MULTILINE)


def write_constraints(torch):
    """constraints.txt for the torch that is installed, in a temporary file: its path."""
    text = re.sub(r"(?m)^torch==.*$", "torch==" + torch, read("constraints.txt"))
    if torch.split("+")[0] != pinned("torch"):
        # torchvision is made for one release of torch
        text = re.sub(r"(?m)^torchvision==.*\n", "", text)
    handle, path = tempfile.mkstemp(suffix=".txt", prefix="constraints-")
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode("utf-8"))
    return path


def tree_key():
    """What an installation was made from: where, and the files that say what is needed."""
    digest = hashlib.sha256(ROOT.encode("utf-8"))
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        digest.update(read(name).encode("utf-8"))
    return digest.hexdigest()


def read_stamp(path):
    """What is installed; empty if nothing, or if that cannot be read."""
    try:
        with open(path) as file:
            return dict(json.load(file))
    except (IOError, OSError, TypeError, ValueError):
        return {}


def write_stamp(path, content):
    """Note what is installed."""
    if path is not None:
        with open(path + ".new", "w") as file:
            json.dump(content, file)
        os.replace(path + ".new", path)


def last_line(text):
    """The last line that says something."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"])[-1]


def dotted(version):
    """(3, 12) as 3.12."""
    return ".".join(str(part) for part in tuple(version)[:2])


def size(megabytes):
    """Megabytes for a reader."""
    return "{:.1f} GB".format(megabytes / 1000.0) if megabytes >= 1000 else "{} MB".format(megabytes)


if __name__ == "__main__":
    sys.exit(main())
