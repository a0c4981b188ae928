"""Files: written completely or not at all, locked, hashed, and recognised by their content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file beside ``path``, which is renamed to ``path`` when the block ends without an error.

    Readers therefore never see half a file, and an interrupted writer leaves the old file untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # Windows does not flush a file that is open only for reading
        with open(temporary, "r+b") as written:
            os.fsync(written.fileno())
        # mkstemp makes private files; the result gets the permissions that an ordinary open() would give
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Like :func:`atomic_file`, for a folder, which replaces ``path`` only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o777 & ~umask)
    previous = temporary.with_suffix(".old")
    try:
        yield temporary
        if path.exists():
            os.replace(path, previous)
        try:
            os.replace(temporary, path)
        except OSError:
            if previous.exists():
                os.replace(previous, path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            shutil.rmtree(previous, ignore_errors=True)


@contextlib.contextmanager
def locked(stream: IO, wait: bool = True) -> Iterator[None]:
    """Hold the operating system's lock on an open file until the block or the process ends.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is False.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        with _locked_on_windows(stream, wait):
            yield
        return
    fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    try:
        yield
    finally:
        fcntl.flock(stream, fcntl.LOCK_UN)


# on Windows nobody else can read or write what is locked, so a byte far beyond the end is locked for the file
_LOCKED_BYTE = 2**31 - 2


@contextlib.contextmanager
def _locked_on_windows(stream: IO, wait: bool) -> Iterator[None]:
    import msvcrt

    def change(mode: int) -> None:
        position = stream.tell()
        stream.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(stream.fileno(), mode, 1)
        finally:
            stream.seek(position)

    while True:
        try:
            change(msvcrt.LK_NBLCK)
            break
        except OSError as error:
            if not wait:
                raise BlockingIOError(*error.args) from error
        # the system itself would give up waiting after ten seconds
        time.sleep(0.05)
    try:
        yield
    finally:
        change(msvcrt.LK_UNLCK)


def sha256_file(path: str | os.PathLike) -> str:
    """SHA-256 (hexadecimal) of the content of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(stream)


def _sha(stream) -> str:
    # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------
# what a file is, by its content

_HEAD = 4096
_REPEAT = "download or copy it again"
# first bytes -> phrase; longer signatures come before their prefixes
_SIGNATURES = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"version https://hawser.github.com/spec/", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer, not the file itself: run `git annex get`"),
    (b"\x1f\x8b", "gzip-compressed data: unpack it with `gunzip`"),
    *((b"BZh%d1AY&SY" % level, "bzip2-compressed data: unpack it with `bunzip2`") for level in range(1, 10)),
    (b"\xfd7zXZ\x00", "xz-compressed data: unpack it with `unxz`"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data: unpack it with `unzstd`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive: unpack it"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file: write what is in it in the expected format"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file: write what is in it in the expected format"),
    (b"PAR1", "a Parquet file: write what is in it in the expected format"),
    (b"ARROW1", "an Arrow file: write what is in it in the expected format"),
    (b"SQLite format 3\x00", "an SQLite database: write what is in it in the expected format"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    # torch's format before 1.6: a pickle of a magic number
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a PyTorch file (.pt): save the tensor in it with `numpy.save`"),
    (b"\xff\xfe\x00\x00", "text in UTF-32: convert it to UTF-8"),
    (b"\x00\x00\xfe\xff", "text in UTF-32: convert it to UTF-8"),
    (b"\xff\xfe", "text in UTF-16: convert it to UTF-8"),
    (b"\xfe\xff", "text in UTF-16: convert it to UTF-8"),
)


def what_it_is(path: str | os.PathLike) -> str | None:
    """What a file with unexpected content is, as a phrase that continues "it is ...".

    The phrase also says what to do if something can be done: ``a Git LFS pointer, not the file itself: run `git lfs
    pull```. Nothing is unpickled. None if the kind of the content is unknown, or it cannot be read.
    """
    path = Path(path)
    if path.is_symlink() and not path.exists():
        target = os.readlink(path)
        annex = "annex/objects" in Path(target).as_posix()
        return (
            "a git-annex link without its content: run `git annex get`"
            if annex
            else f"a link to {target}, which does not exist"
        )
    if path.is_dir():
        return "a folder"
    try:
        with open(path, "rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return None
    if not head:
        return f"an empty file: {_REPEAT}"
    if not head.strip(b"\0") and _all_zero(path):
        return f"nothing but zero bytes, as an interrupted copy leaves them: {_REPEAT}"
    for signature, phrase in _SIGNATURES:
        if head.startswith(signature):
            return phrase
    if head.startswith(b"\x93NUMPY"):
        return _what_array(path, head)
    if head.startswith(b"PK\x03\x04"):
        return _what_zip(path)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, which can run code and is not loaded: write what is in it in the expected format"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it with `tar -xf`"
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "a safetensors file: save the tensor in it with `numpy.save`"
    return _what_text(head)


def _all_zero(path: Path) -> bool:
    with open(path, "rb") as stream:
        return all(not block.strip(b"\0") for block in iter(lambda: stream.read(1 << 20), b""))


def _what_array(path: Path, head: bytes) -> str:
    """Which array a ``.npy`` file holds, and whether it is complete."""
    import numpy as np  # imported here because the module needs only the standard library otherwise

    try:
        with open(path, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            start = stream.tell()
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, KeyError):
        return f"a NumPy array whose header is damaged: {_REPEAT}"
    if dtype.hasobject:
        return (
            "an array of pickled Python objects, which can run code and is not loaded: save the numbers themselves, "
            "`numpy.save(path, numpy.stack(list(array)).astype('float32'))`"
        )
    actual, expected = path.stat().st_size, start + math.prod(shape) * dtype.itemsize
    if actual < expected:
        return f"a truncated NumPy array ({actual} of {expected} bytes): {_REPEAT}"
    return f"a NumPy array of {dtype} of shape {tuple(shape)}"


def _what_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return f"a zip archive that is damaged or truncated: {_REPEAT}"
    if names and all(name.endswith(".npy") for name in names):
        arrays = ", ".join(f"'{name[: -len('.npy')]}'" for name in names[:5]) + (", ..." if len(names) > 5 else "")
        return f"an .npz archive (of {arrays}): save the array in it with `numpy.save`"
    if any(name.endswith("/data.pkl") for name in names):
        return "a PyTorch file (.pt): save the tensor in it with `numpy.save`"
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook: save its sheet as text"
    return "a zip archive: unpack it"


def _what_text(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")) or (text.startswith(b"<") and b"<html" in text[:1024]):
        return "an HTML page instead of the file, as a link to a website gives it: download the file itself"
    if text.startswith((b"<?xml", b"<error>")):
        return "an XML document, which servers send when a download fails: download the file again"
    if text.startswith((b'{"', b"[{", b"{'")):
        return "JSON text"
    if len(head) > 8 and any(head) and not (any(head[1::2]) and any(head[::2])):
        return "text in UTF-16: convert it to UTF-8"
    # git writes links as text where the file system has none
    if b"/annex/objects/" in text[:512] and text.startswith((b".git/", b"../")):
        return "a git-annex link without its content: run `git annex get`"
    return None
