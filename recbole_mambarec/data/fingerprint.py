"""Fingerprints of what the data of a run depend on: the files of a dataset, and the code that reads them."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recbole.config import Config
from tqdm import tqdm

from recbole_mambarec.errors import UserError
from recbole_mambarec_command.command_line import typed
from recbole_mambarec_common.files import sha256_file

# data files of RecBole and this package: <name>.inter, <name>.train.inter, <name>.<modality>.npy, ...
_DATA_SUFFIXES = (".inter", ".user", ".item", ".kg", ".link", ".net", ".npy")
# from this size on, reading takes long enough to show progress
_LARGE = 1 << 31
# packages whose code turns files into datasets, and the libraries that it uses
_CODE = ("recbole.data", "recbole.sampler", "recbole_mambarec", "recbole_mambarec_common")
_LIBRARIES = ("recbole", "numpy", "pandas", "torch")


def data_hash(folder: Path, name: str, suffixes: tuple[str, ...] = ()) -> str:
    """SHA-256 (hexadecimal) of the data files of a dataset: interactions, split, items, users, features.

    The name of the dataset, its card and files of other kinds do not count, except files with one of ``suffixes``.

    Raises:
        UserError: the folder holds no data file.
    """
    wanted = (*_DATA_SUFFIXES, *(f".{suffix}" for suffix in suffixes))
    inside = folder.iterdir() if folder.is_dir() else ()
    # an additional suffix may contain a dot
    files = sorted(path for path in inside if path.name.startswith(f"{name}.") and path.name.endswith(wanted))
    if not files:
        raise UserError(
            f"there are no data files of '{name}' in {folder}: prepare the dataset, or let "
            f"`{typed('run')} --dataset={name}` download it if RecBole offers it"
        )
    size = sum(path.stat().st_size for path in files)
    parts = [
        f"{path.name[len(name) :]} {_hash_of(path)}"
        for path in tqdm(files, desc=f"Fingerprint of {name}", disable=size < _LARGE)
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def config_data_hash(config: Config) -> str:
    """:func:`data_hash` of the dataset that a configuration names."""
    suffixes = tuple(config["additional_feat_suffix"] or ())
    return data_hash(Path(config["data_path"]), config["dataset"], suffixes)


def hashed_file(name: str, given: Mapping, folder: Path) -> dict[str, str]:
    """The file that a configuration key names, and the hash of its contents, which belongs to the key of a run.

    Args:
        name: of the configuration key, for messages.
        given: ``file``, a path here or in ``folder``, and perhaps ``sha256``, which decides if there are several.
        folder: where else the file, or one of its name, may be.

    Raises:
        UserError: there is no such file, or its contents are not those whose hash is given.
    """
    named = Path(given["file"])
    found = {path: sha256_file(path) for path in (named, folder / named, folder / named.name) if path.is_file()}
    if not found:
        raise UserError(f"{name}: there is no file {named}, neither here nor in {folder}")
    for path, content in found.items():
        if given.get("sha256") in (None, content):
            return {"file": str(path), "sha256": content}
    raise UserError(
        f"{name}: {next(iter(found))} has changed since its hash was recorded: put the file back that it was (here or "
        f"in {folder}), or leave sha256 out to use it as it is"
    )


def _hash_of(path: Path) -> str:
    status = path.stat()
    # a replaced file may keep its size and modification time, but neither its inode nor its change time
    return _file_hash(path.resolve(), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.cache
def _file_hash(path: Path, file: int, size: int, modified: int, changed: int) -> str:
    return sha256_file(path)


@functools.cache
def code_hash() -> str:
    """SHA-256 (hexadecimal) of the code that builds datasets: RecBole's, ours, and the versions of their libraries."""
    digest = hashlib.sha256()
    for package in _CODE:
        for folder in importlib.util.find_spec(package).submodule_search_locations:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package} {path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    for library in _LIBRARIES:
        try:
            digest.update(f"{library} {version(library)}\n".encode())
        except PackageNotFoundError:
            continue
    return digest.hexdigest()
