"""Read text files, plain or gzip, in blocks of whole lines; parse one line safely."""

from __future__ import annotations

import ast
import codecs
import gzip
import io
import json
import zlib
from collections.abc import Generator
from pathlib import Path

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.files import what_it_is

from .progress import bar

#: Bytes per block: large enough to be parsed fast, small enough to fit in any memory.
BLOCK = 8 << 20
#: The reason under which a line in another encoding is counted.
NOT_UTF8 = "not UTF-8"
#: A file with a longer line is not a data file.
MAX_LINE = 64 << 20


def not_utf8(path: Path) -> UserError | None:
    """The error for a text file (plain or gzip) that is not UTF-8: where that shows first, and what to do.

    None if the file is UTF-8 after all.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, start = 1, 0
    with open_source(path) as source:
        while True:
            block = source.read(BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                held = len(decoder.getstate()[0])
                line += error.object[: error.start].count(b"\n")
                byte = error.object[error.start]
                return UserError(
                    f"{path.name} is not UTF-8 text (byte {start - held + error.start + 1:,}, in line {line:,}, is "
                    f"0x{byte:02x}): save it as UTF-8, or convert it with `iconv -f ENCODING -t utf-8`, where ENCODING "
                    "is often latin1, cp1252 or gbk"
                )
            if not block:
                return None
            line += text.count("\n")
            start += len(block)


def must_be_a_file(path: Path) -> None:
    """Refuse a path that does not lead to a file.

    Raises:
        UserError: there is nothing, or a folder.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, expected a file")
    if not path.is_file():
        raise UserError(f"there is no file {path}")


def utf8_error(path: Path) -> UserError:
    """The error for a file that could not be decoded as UTF-8, with the place if :func:`not_utf8` finds it."""
    return not_utf8(path) or UserError(f"{path.name} is not UTF-8 text")


def read_text(path: Path) -> str:
    """The contents of a small text file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: the file is not text, or not UTF-8.
    """
    if fault := not_text(path):
        raise fault
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise utf8_error(path) from None


def not_text(path: Path) -> UserError | None:
    """The error for a file whose content is not text (plain or gzip); None if it may be text."""
    what = what_it_is(path)
    if what is None or what.startswith(_ACCEPTED):
        return None
    return UserError(f"{path.name} is not a text file: it is {what}")


# these are read, or refused later with a better message
_ACCEPTED = ("gzip", "JSON", "an empty file", "a folder", "a link")


class BadLine(ValueError):
    """A line that cannot be used; the message is the reason under which it is counted."""


class _Source(io.RawIOBase):
    """The bytes of a file, decompressed if it is gzip, which its first bytes tell rather than its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.raw = open(path, "rb")  # noqa: SIM115 (closed in close())
        except FileNotFoundError:
            raise UserError(f"there is no file {path}") from None
        except IsADirectoryError:
            raise UserError(f"{path} is a folder, expected a file") from None
        packed = self.raw.read(2) == b"\x1f\x8b"
        self.raw.seek(0)
        self.stream = gzip.GzipFile(fileobj=self.raw) if packed else self.raw

    def read(self, size: int = -1) -> bytes:
        try:
            return self.stream.read(size)
        except EOFError:
            raise UserError(
                f"{self.path.name} ends in the middle of its gzip data: the download is incomplete, repeat it"
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{self.path.name} is damaged gzip data ({error}): download it again") from None

    def position(self) -> int:
        """Number of bytes read from the file on disk."""
        return self.raw.tell()

    def close(self) -> None:
        if self.stream is not self.raw:
            self.stream.close()
        self.raw.close()
        super().close()


def open_source(path: str | Path) -> _Source:
    """Open a plain or gzip file for reading bytes.

    Raises:
        UserError: there is no such file; or later, while reading, its gzip data is truncated or damaged.
    """
    return _Source(Path(path))


def blocks(path: str | Path, size: int = BLOCK) -> Generator[bytes, None, None]:
    """Blocks of whole lines of about ``size`` bytes, each ending with a line end, with a progress bar.

    A byte order mark at the start is dropped, and a line end is added to a last line without one.

    Raises:
        UserError: see :func:`open_source`; or it is not text, or a line is longer than :data:`MAX_LINE`.
    """
    path = Path(path)
    if fault := not_text(path):
        raise fault
    with open_source(path) as source, bar(path.name, path.stat().st_size, "B") as shown:
        rest = source.read(3)
        rest = rest.removeprefix(b"\xef\xbb\xbf")
        while chunk := source.read(size):
            shown.update(source.position() - shown.n)
            cut = chunk.rfind(b"\n") + 1
            if cut:
                yield rest + chunk[:cut]
                rest = chunk[cut:]
            else:
                rest += chunk
                if len(rest) > MAX_LINE:
                    raise UserError(
                        f"{path.name} has a line of more than {MAX_LINE >> 20} MB, so it is not a data file"
                    )
        if rest:
            yield rest if rest.endswith(b"\n") else rest + b"\n"


def parse_object(line: bytes, literals: bool = False) -> dict:
    """One line as a dict: JSON or, if ``literals``, a Python literal (as in Amazon 2014).

    If a key occurs twice, its first value counts, as in the fast parser. Nothing is ever evaluated:
    ``ast.literal_eval`` only knows constants and containers.

    Raises:
        BadLine: not UTF-8, not an object.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadLine(NOT_UTF8) from None
    try:
        value = json.loads(text, object_pairs_hook=_first_wins)
    except (ValueError, RecursionError):
        value = _literal(text) if literals else None
    if not isinstance(value, dict):
        raise BadLine("not an object")
    return value


def _first_wins(pairs: list[tuple]) -> dict:
    return dict(reversed(pairs))


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def objects(path: str | Path, skips, literals: bool = False) -> Generator[dict, None, None]:
    """Every line of a file as a dict; unusable lines are counted in ``skips``, blank ones ignored."""
    import warnings

    with warnings.catch_warnings():
        # literal_eval warns of invalid escapes such as "\d", which are in the data
        warnings.simplefilter("ignore")
        for block in blocks(path):
            for line in block.split(b"\n"):
                if not line.strip():
                    continue
                skips.lines += 1
                try:
                    yield parse_object(line, literals)
                except BadLine as fault:
                    skips.add(str(fault))
