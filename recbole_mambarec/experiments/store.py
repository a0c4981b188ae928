"""The file of runs: one JSON line per run, appended, never rewritten.

A record holds everything that a table, a test or a curve is made of:

=================  ===================================================================================================
``format``         :data:`FORMAT`
``key``            what makes two runs the same run (:func:`~recbole_mambarec.run_keys.run_key`)
``group, label``   the comparison that the run belongs to, and its name there (by default the model's)
``model, dataset, seed``
``overrides``      configuration that the user gave, key -> value
``config``         the resolved configuration, everything that can change a result, without paths of the machine
``data_hash``      fingerprint of the dataset's files
``versions, git``  of the libraries; ``{"revision", "dirty"}`` of this package's source tree, or None
``device``         ``cpu``, or the name of the GPU
``status, error``  ``finished`` and None, or ``failed`` and a sentence (what was not reached is None or empty)
``valid``          metric -> value on the validation split at the best epoch, in RecBole's four decimals
``test``           mask (:data:`MASKS`, or :data:`UNMASKED` alone) -> metric -> value at the best epoch, in six decimals
``curve``          one entry per epoch: ``{"epoch", "valid": metric -> value or None, "loss": part -> value,
                   "train_seconds", "valid_seconds"}``
``best_epoch, epochs, seconds``  the epoch that validation chose (from 0), epochs trained, their seconds in all
``peak_memory_gib``  of the process (of the GPU where one was used)
``parameters``     trainable ones
``per_user``       Parquet file beside this one (:mod:`recbole_mambarec.experiments.users`), or None
=================  ===================================================================================================
"""

from __future__ import annotations

import json
import math
import os
from logging import getLogger
from pathlib import Path

from recbole_mambarec.errors import UserError
from recbole_mambarec.run_keys import run_key
from recbole_mambarec_command.doors import typed
from recbole_mambarec_common.files import locked

FORMAT = "recbole_mambarec.run/1"
# what is taken out of the ranking at test: "train" as in the published tables, "train+valid" as RecBole has it
MASKS = ("train", "train+valid")
# the only one under `repeatable: True`, RecBole's setting for sequential models: known items may be recommended again
UNMASKED = "none"

_NONE = type(None)
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "format": str,
    "key": str,
    "group": str,
    "label": str,
    "model": str,
    "dataset": str,
    "seed": int,
    "overrides": dict,
    "config": dict,
    "data_hash": str,
    "versions": dict,
    "git": (dict, _NONE),
    "device": str,
    "status": str,
    "error": (str, _NONE),
    "valid": dict,
    "test": dict,
    "curve": list,
    "best_epoch": (int, _NONE),
    "epochs": (int, _NONE),
    "seconds": (int, float, _NONE),
    "peak_memory_gib": (int, float, _NONE),
    "parameters": (int, _NONE),
    "per_user": (str, _NONE),
}


def append(path: str | os.PathLike, record: dict) -> None:
    """Add ``record`` as the last line and wait until it is on the disk; other processes may append at the same time.

    A line that an earlier writer left unfinished is closed, so that it cannot spoil this one. Numbers that are not
    finite, which JSON does not have, become None.

    Raises:
        ValueError: the record lacks a field or has one of another type (a defect of the caller).
    """
    fault = _fault(record)
    if fault:
        raise ValueError(f"no record of a run: {fault}")
    line = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as stream, locked(stream):
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def check_writable(path: str | os.PathLike) -> None:
    """Find out before hours of work whether :func:`append` will be able to write there.

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


def read(path: str | os.PathLike) -> list[dict]:
    """The records of a file in the order in which they were written.

    A line that was cut off while it was written (a full disk, a power failure) is named in a warning and left out.

    Raises:
        UserError: there is no such file, it cannot be read, or it holds something other than records of this format.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"there is no file of runs {path}: make some with {typed('compare')}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read as a file of runs: {error.strerror}") from None
    records = []
    for number, line in enumerate(lines, start=1):
        line = line.strip(b"\0 \r\t")
        if not line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            if not line.startswith(b"{"):
                raise UserError(f"line {number} of {path} is no JSON: the file is no record of runs") from None
            getLogger().warning(
                f"line {number} of {path} is incomplete and is left out: a run was cut off while it was recorded; it "
                "is made again when its group is started again, and the line can be deleted"
            )
            continue
        fault = _fault(record)
        if fault:
            raise UserError(f"line {number} of {path} is no record of a run in the format '{FORMAT}': {fault}")
        records.append(_as_masked(record))
    return records


def _as_masked(record: dict) -> dict:
    """Scores under the mask that they were computed with: early records have unmasked ones under :data:`MASKS`."""
    if not record["config"].get("repeatable") or not set(MASKS) & set(record["test"]):
        return record
    scores = next(record["test"][mask] for mask in MASKS if mask in record["test"])
    # the columns of the results per user are named in the same way
    return record | {"test": {UNMASKED: scores}, "per_user": None}


def finished(records: list[dict]) -> dict[str, dict]:
    """The finished runs by key: the one that they were recorded under, and the one that they would have today."""
    done = [record for record in records if record["status"] == "finished"]
    today = {run_key(r["model"], r["config"], r["seed"], r["data_hash"]): r for r in done}
    return today | {record["key"]: record for record in done}


def latest(records: list[dict]) -> list[dict]:
    """One record per run and name (key, group, label), in order of first appearance: a finished one before a failed
    one, else the last."""
    chosen: dict[tuple, dict] = {}
    for record in records:
        name = record["key"], record["group"], record["label"]
        if name not in chosen or record["status"] == "finished" or chosen[name]["status"] == "failed":
            chosen[name] = record
    return list(chosen.values())


def _fault(record: object) -> str | None:
    """What keeps ``record`` from being one, or None."""
    if not isinstance(record, dict):
        return f"it is a {type(record).__name__}"
    if record.get("format") != FORMAT:
        return f"its format is '{record['format']}'" if "format" in record else "it does not name its format"
    for field, kind in _FIELDS.items():
        if field not in record:
            return f"field '{field}' is missing"
        if not isinstance(record[field], kind):
            return f"field '{field}' is {str(record[field])[:40]!r}"
    if record["status"] not in ("finished", "failed"):
        return f"field 'status' is '{record['status']}'"
    return None


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
