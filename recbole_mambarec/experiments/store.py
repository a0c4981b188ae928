"""What is recorded of a run (:class:`Record`), and the file of runs: a JSON line per run, appended, never rewritten."""

from __future__ import annotations

import json
import math
import os
import types
import typing
from dataclasses import asdict, dataclass, field, replace
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_mambarec.errors import UserError
from recbole_mambarec.renamed import under_new_names
from recbole_mambarec.run_keys import run_key
from recbole_mambarec_command.command_line import typed
from recbole_mambarec_common.files import locked

#: ``format`` of each line: the version of the schema that :class:`Record` describes.
FORMAT = "recbole_mambarec.run/1"
# what is taken out of the ranking at test: "train" as in the published tables, "train+valid" as RecBole has it
MASKS = ("train", "train+valid")
# the only mask under `repeatable: True`, RecBole's setting for sequential models: items of the user may come again
UNMASKED = "none"
#: key of the configuration of a model that was evaluated with other values than it was trained with: those values
TRAINED_WITH = "trained_with"
# values of a record's `status`
FINISHED, FAILED = "finished", "failed"


@dataclass(frozen=True)
class Record:
    """A run: everything that tables, tests and curves are made of.

    Attributes:
        key: the same for runs that are the same (:func:`~recbole_mambarec.run_keys.run_key`).
        group, label: the comparison that the run belongs to, and its name there (by default the model's).
        overrides: configuration that the user gave.
        config: the resolved configuration, everything that can change a result, without paths of the machine.
        data_hash: fingerprint of the dataset's files.
        versions: of Python and the libraries.
        git: ``{"revision", "dirty"}`` of this package's source tree; None for an installed package.
        device: ``cpu``, or the name of the GPU.
        status: :data:`FINISHED` or :data:`FAILED`.
        error: None, or a sentence about the failure; what was not reached is None or empty.
        valid: metric -> value on the validation split at the best epoch, rounded by RecBole to four decimals.
        test: mask (:data:`MASKS`, or :data:`UNMASKED` alone) -> metric -> value at the best epoch, six decimals.
        curve: an entry per epoch, ``{"epoch", "valid": metric -> value or None, "loss": part -> value,
            "train_seconds", "valid_seconds"}``; the first also has ``computing_seconds``, a part of its
            ``train_seconds``, if the model has closed forms.
        best_epoch: the epoch that validation chose, from 0.
        epochs, seconds: epochs trained, and their seconds in all.
        peak_memory_gib: of the process; of the GPU where one was used.
        parameters: trainable ones.
        per_user: Parquet file (:mod:`recbole_mambarec.experiments.users`), relative to the file of runs.
        point: for a trial of a search, the tuned settings; None for other runs, which lack the following fields, too.
        score: the validation metric of the search.
        stopped: whether the trial was stopped early.
        wall_seconds, memory_gib: of the trial's process.
        fusion: for a fusion of other runs, how it was made (:mod:`~recbole_mambarec.experiments.fusion`): ``parts``
            (``label``, ``model``, ``seed``, ``key`` and ``weight`` of each), ``normalisation``, ``search``, ``metric``;
            None for other runs, which lack the field.
    """

    key: str
    group: str
    label: str
    model: str
    dataset: str
    seed: int
    overrides: dict
    config: dict
    data_hash: str
    versions: dict
    git: dict | None
    device: str = "cpu"
    status: str = FINISHED
    error: str | None = None
    valid: dict = field(default_factory=dict)
    test: dict = field(default_factory=dict)
    curve: list = field(default_factory=list)
    best_epoch: int | None = None
    epochs: int | None = None
    seconds: float | None = None
    peak_memory_gib: float | None = None
    parameters: int | None = None
    per_user: str | None = None
    point: dict | None = None
    score: float | None = None
    stopped: bool = False
    wall_seconds: float | None = None
    memory_gib: float | None = None
    fusion: dict | None = None

    @property
    def kind(self) -> str:
        """What was done: ``run``, ``trial`` (of a search), ``fusion``, or ``evaluation`` of a trained model."""
        if self.fusion is not None:
            return "fusion"
        if TRAINED_WITH in self.config:
            return "evaluation"
        return "run" if self.point is None else "trial"

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended without a failure."""
        return self.status == FINISHED

    def to_json(self) -> dict:
        """The record as a line of the file has it."""
        values = {"format": FORMAT, **asdict(self)}
        if self.point is None:
            for name in _OF_TRIALS:
                del values[name]
        if self.fusion is None:
            del values["fusion"]
        return values

    @classmethod
    def from_json(cls, values: Any) -> Record:
        """The record of a line; keys that this version does not know are dropped.

        Raises:
            ValueError: the values are not those of a record; the message is the rest of a sentence.
        """
        fault = _fault(values)
        if fault:
            raise ValueError(fault)
        return cls(**{name: values[name] for name in _TYPES if name in values})


# fields that only the trials of a search have
_OF_TRIALS = ("point", "score", "stopped", "wall_seconds", "memory_gib")
_OF_SOME = (*_OF_TRIALS, "fusion")


def _types() -> dict[str, tuple[type, ...]]:
    """Field -> types that a value read from JSON may have."""
    found = {}
    for name, hint in typing.get_type_hints(Record).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        found[name] = (*options, int) if float in options else options
    return found


_TYPES = _types()


def _fault(values: object) -> str | None:
    """Why ``values`` are not a record, or None."""
    if not isinstance(values, dict):
        return f"it is a {type(values).__name__}"
    if values.get("format") != FORMAT:
        return f"its format is '{values['format']}'" if "format" in values else "it does not name its format"
    for name, allowed in _TYPES.items():
        if name not in values:
            if name in _OF_SOME:
                continue
            return f"field '{name}' is missing"
        if not isinstance(values[name], allowed):
            return f"field '{name}' is {str(values[name])[:40]!r}"
    if values["status"] not in (FINISHED, FAILED):
        return f"field 'status' is '{values['status']}'"
    return None


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def append(path: str | os.PathLike, record: Record) -> None:
    """Add ``record`` as the last line and wait until it is on the disk; other processes may append at the same time.

    If an earlier writer has left its line unfinished, that line is closed, so that it cannot spoil this one. Numbers
    that are not finite, which JSON lacks, become None.

    Raises:
        ValueError: a field has a value of another type (a defect of the caller).
    """
    values = _finite(record.to_json())
    fault = _fault(values)
    if fault:
        raise ValueError(f"this is not a record of a run: {fault}")
    line = json.dumps(values, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as stream, locked(stream):
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def refuse_unwritable(path: str | os.PathLike) -> None:
    """:func:`check_writable`, with a sentence for the user.

    Raises:
        UserError: it cannot be written.
    """
    try:
        check_writable(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None


def check_writable(path: str | os.PathLike) -> None:
    """Check before hours of work whether :func:`append` will be able to write to ``path``.

    Raises:
        OSError: it will not.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with open(path, "ab"):
        pass
    if new:
        path.unlink()


def read(path: str | os.PathLike) -> list[Record]:
    """The records of a file in the order in which they were written.

    A line that was cut off while it was written (full disk, power failure) is left out, with a warning.

    Raises:
        UserError: there is no such file, it cannot be read, or it holds something other than records of this format.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"there is no file of runs {path}: `{typed('compare')}` writes one") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read as a file of runs: {error.strerror}") from None
    records = []
    for number, line in enumerate(lines, start=1):
        line = line.strip(b"\0 \r\t")
        if not line:
            continue
        try:
            values = json.loads(line)
        except ValueError:
            if not line.startswith(b"{"):
                raise UserError(f"line {number} of {path} is not JSON: this is not a file of runs") from None
            getLogger().warning(
                f"line {number} of {path} is incomplete and is left out: recording was cut off; the run is repeated "
                "when its group is started again, and the line can be deleted"
            )
            continue
        try:
            record = Record.from_json(values)
        except ValueError as error:
            raise UserError(
                f"line {number} of {path} is not a record of a run in the format '{FORMAT}': {error}"
            ) from None
        records.append(_under_new_names(_with_actual_mask(record)))
    return records


def _with_actual_mask(record: Record) -> Record:
    """Early records list scores that were computed without a mask under :data:`MASKS`."""
    if not record.config.get("repeatable") or not set(MASKS) & set(record.test):
        return record
    scores = next(record.test[mask] for mask in MASKS if mask in record.test)
    # the columns of the results per user have the same names
    return replace(record, test={UNMASKED: scores}, per_user=None)


def _under_new_names(record: Record) -> Record:
    """The configuration of an earlier version's record, under the names that its keys have today."""
    parts: dict[str, Any] = {name: getattr(record, name) for name in ("overrides", "config", "point")}
    parts = {name: part and under_new_names(record.model, part) for name, part in parts.items()}
    return replace(record, **parts)


def finished(records: list[Record]) -> dict[str, Record]:
    """The finished runs by key, both the recorded key and the one that this version would give them."""
    done = [record for record in records if record.is_finished]
    today = {run_key(r.model, r.config, r.seed, r.data_hash): r for r in done}
    return today | {record.key: record for record in done}


def latest(records: list[Record]) -> list[Record]:
    """One record per key, group and label, in order of first appearance.

    A finished record is preferred to a failed one, and a later one to an earlier one.
    """
    chosen: dict[tuple, Record] = {}
    for record in records:
        name = record.key, record.group, record.label
        if name not in chosen or record.is_finished or not chosen[name].is_finished:
            chosen[name] = record
    return list(chosen.values())
