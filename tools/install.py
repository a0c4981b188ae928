"""Install recbole_mambarec from this source tree: into .venv, as make does, or with --here for this Python.

    python tools/install.py                     what a run needs, in .venv
    python tools/install.py --extras=dev        what the tests need, too
    python tools/install.py --here              into the environment of this Python (conda, Colab)

torch is installed first, unless it is installed already: any build of it is kept. RecBole is installed without its own
requirements, which have no solution on current Pythons; setup.cfg has them instead.

Only the standard library is used, and only syntax that Python 2 understands, so that a Python that is too old prints an
explanation rather than a SyntaxError.
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
OTHER_SIZE, DEV_SIZE = 110, 380

NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|Name or service not known|getaddrinfo failed|"
    r"ConnectTimeout|ReadTimeout|Read timed out|Connection (?:refused|reset|aborted)|Network is unreachable|"
    r"ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED|IncompleteRead|Temporary failure"
)
LARGE_DOWNLOAD = re.compile(r"\s*Downloading .*\([\d.]+ [MG]B\)")
NO_BUILD = re.compile(r"No matching distribution found for ([^\s;(]+)")


class Fault(Exception):
    """An error, explained in one sentence with the command that repairs it."""


def main(argv=None):
    """Install; returns the exit status, 0, 2 after an error message, or 130 after Ctrl-C."""
    try:
        check_this_python()
        install(read_options(argv))
    except Fault as fault:
        sys.stdout.flush()
        print("error: {}".format(fault), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command continues, and complete downloads are kept", file=sys.stderr)
        return 130
    return 0


def read_options(argv):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python tools/install.py",
        description="Install recbole_mambarec from its source tree: torch unless it is there, RecBole, the package.",
    )
    parser.add_argument("--extras", default="", help="extras of setup.cfg, separated by commas: dev, report, ray, ...")
    parser.add_argument("--torch-index", default="", help="package index for torch, e.g. " + CPU_INDEX)
    parser.add_argument("--venv", default=".venv", help="folder of the environment (default .venv)")
    parser.add_argument("--here", action="store_true", help="install for the Python that runs this, not into a folder")
    parser.add_argument(
        "--any-python", action="store_true", help="also use an environment that was created by another Python"
    )
    parser.add_argument("--make", default="", metavar="ARGUMENTS", help="the arguments of make, for messages")
    options = parser.parse_args(argv)
    options.extras = sorted(set(filter(None, options.extras.replace(" ", "").split(","))))
    unknown = sorted(set(options.extras) - set(known_extras()))
    if unknown:
        raise Fault("there is no extra '{}': use {}".format(unknown[0], ", ".join(known_extras())))
    return options


def install(options):
    """Create the environment and install what is missing in it.

    Raises:
        Fault: something prevents it.
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
        # last, because pip complains about its requirements whenever it installs something else afterwards
        pip.install("RecBole", "--no-deps", "recbole==" + pinned("recbole"))
    finally:
        os.remove(constraints)
    write_stamp(stamp, now)
    print("installed{}".format(" for " + python if options.here else " in " + options.venv))


# ------------------------------------------------------------------------------------------------------------
# Pythons and environments


def check_this_python():
    """Check the version of this Python.

    Raises:
        Fault: it is too old or too new; the message names an installed one that is not.
    """
    fault = version_fault(sys.version_info[:2])
    if fault:
        raise Fault(
            "{} ({} is Python {}): {}".format(fault, sys.executable, platform.python_version(), other_pythons())
        )


def version_fault(version):
    """What is wrong with a version of Python, or None."""
    if OLDEST <= tuple(version) <= NEWEST:
        return None
    return "Python {} to {} is needed".format(dotted(OLDEST), dotted(NEWEST))


def other_pythons():
    """Advice: the command with a suitable Python on the path, if there is one."""
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
    """The Python of the environment, which is created if it does not exist.

    Raises:
        Fault: it is broken, was created by another Python, or cannot be created.
    """
    folder = options.venv
    python = os.path.join(folder, "Scripts", "python.exe") if os.name == "nt" else os.path.join(folder, "bin", "python")
    if not os.path.isdir(folder):
        if os.path.lexists(folder):
            raise Fault("{} is not a folder: move it away, then {}".format(folder, again))
        make_environment(folder, again)
    version = version_of(python)
    if version is None:
        raise Fault(
            "the environment {} is broken, its Python does not start: {}, then {}".format(folder, remove, again)
        )
    wanted = tuple(sys.version_info[:2])
    if version != wanted and (version_fault(version) or not options.any_python):
        raise Fault(
            "the environment {} was made by Python {}, but Python {} is wanted: {}, then {}".format(
                folder, dotted(version), dotted(wanted), remove, again
            )
        )
    return python


def make_environment(folder, again):
    """Create an environment, or leave nothing behind.

    Raises:
        Fault: this Python cannot create one.
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
    """The command to try again, and the one that removes the environment."""
    if options.make:
        return "make " + options.make, "make clean"
    return "the same command again", "delete the folder {}".format(options.venv)


# ------------------------------------------------------------------------------------------------------------
# torch


def keep_torch(version, python, options, remove):
    """Report that the installed torch is kept.

    Raises:
        Fault: it is too old.
    """
    least = least_torch(version_of(python))
    numbers = [int(part) for part in re.match(r"\d+(?:\.\d+)*", version).group(0).split(".")]
    if numbers < [int(part) for part in least.split(".")]:
        raise Fault(
            "torch {} is installed, but {} or newer is needed: pip install --upgrade torch".format(version, least)
        )
    note = ""
    if options.torch_index:
        note = "; {} is not used (for another torch, {} first)".format(
            options.torch_index, "pip uninstall torch" if options.here else remove
        )
    print("torch {} is installed and is kept{}".format(version, note))


def least_torch(python):
    """The oldest torch that setup.cfg allows for a version of Python, (3, 12)."""
    bounds = re.findall(r"(?m)^ +torch>=([\d.]+)(?:; python_version >= \"3\.(\d+)\")?$", read("setup.cfg"))
    return [bound for bound, minor in bounds if not minor or python >= (3, int(minor))][-1]


def torch_arguments(options):
    """Arguments for pip that install torch."""
    arguments = ["torch==" + pinned("torch")]
    if options.torch_index:
        # PyTorch's indexes also have what torch needs
        arguments += ["--index-url", options.torch_index]
    return arguments


def announce(options, torch, extras):
    """Print what will be downloaded, its size, and how to download less."""
    other = DEV_SIZE if "dev" in extras else OTHER_SIZE
    if torch:
        print("downloading up to {}, except for what is already installed".format(size(other)))
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
            "{}the build for CPUs is {}: stop this (Ctrl-C) and use {}".format(
                "without a GPU, " if driver else "this machine shows no NVIDIA driver, and ",
                size(CPU_SIZE),
                way.format(CPU_INDEX),
            )
        )
    sys.stdout.flush()


# ------------------------------------------------------------------------------------------------------------
# pip


class Pip(object):
    """pip of one interpreter: large downloads are shown, other output goes to a log, a failure becomes one sentence."""

    def __init__(self, python, log, again):
        self.python, self.log, self.again = python, log, again

    def need_pip(self):
        """Install pip if the environment has none, as environments of uv.

        Raises:
            Fault: it cannot be installed.
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
        """A sentence about a failure of pip."""
        where = "the output of pip is in {}".format(self.log)
        if NO_NETWORK.search(output):
            return (
                "pip could not download {}: check the network, proxy and index that pip uses "
                "({} -m pip config list), then {}".format(what, self.python, self.again)
            )
        missing = NO_BUILD.search(output)
        if missing:
            index = arguments[arguments.index("--index-url") + 1] if "--index-url" in arguments else "the package index"
            return (
                "{} has no build of {} for Python {} on {} {}: use another Python or index, or first install a build "
                "that you have into the environment, which is kept ({})".format(
                    index, missing.group(1), dotted(self.version()), platform.system(), platform.machine(), where
                )
            )
        if "No space left on device" in output or "not enough space" in output:
            return "the disk is full: free some space, then {}".format(self.again)
        if "externally-managed-environment" in output:
            return (
                "the Python of the operating system accepts no packages from pip: leave --here out, or create an "
                "environment ({} -m venv FOLDER) and use its Python".format(self.python)
            )
        return "pip could not install {}: see the lines above, {}; then {}".format(what, where, self.again)

    def version(self):
        """Version of its Python."""
        return version_of(self.python) or sys.version_info[:2]


def relevant(lines, most=3):
    """The lines of pip's output that show why it failed: the last errors, shortened and without repetitions."""
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
    """Write constraints.txt, adapted to the installed torch, to a temporary file; returns its path."""
    text = re.sub(r"(?m)^torch==.*$", "torch==" + torch, read("constraints.txt"))
    if torch.split("+")[0] != pinned("torch"):
        # each release of torchvision needs one release of torch
        text = re.sub(r"(?m)^torchvision==.*\n", "", text)
    handle, path = tempfile.mkstemp(suffix=".txt", prefix="constraints-")
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode("utf-8"))
    return path


def tree_key():
    """A hash of the tree's place and of the files that declare its requirements."""
    digest = hashlib.sha256(ROOT.encode("utf-8"))
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        digest.update(read(name).encode("utf-8"))
    return digest.hexdigest()


def read_stamp(path):
    """What is installed; empty if nothing is, or if the file cannot be read."""
    try:
        with open(path) as file:
            return dict(json.load(file))
    except (IOError, OSError, TypeError, ValueError):
        return {}


def write_stamp(path, content):
    """Write down what is installed."""
    if path is not None:
        with open(path + ".new", "w") as file:
            json.dump(content, file)
        os.replace(path + ".new", path)


def last_line(text):
    """The last line that is not blank."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no output"])[-1]


def dotted(version):
    """(3, 12) as 3.12."""
    return ".".join(str(part) for part in tuple(version)[:2])


def size(megabytes):
    """Megabytes as text."""
    return "{:.1f} GB".format(megabytes / 1000.0) if megabytes >= 1000 else "{} MB".format(megabytes)


if __name__ == "__main__":
    sys.exit(main())
