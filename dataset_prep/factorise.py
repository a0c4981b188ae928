"""Replace ids of users and items by numbers, without holding the ids of every interaction in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.extras import need

from .skips import Skips
from .tables import Interactions

if TYPE_CHECKING:
    import polars as pl
else:
    pl = need("polars", "prep")

#: Rows per file on disk.
_SHARD = 1 << 20


@dataclass
class RawTable:
    """The usable interactions of a source, in its order.

    Attributes:
        user_ids, item_ids: the distinct ids, sorted; ``interactions`` holds positions in them.
        skips: what was left out.
    """

    user_ids: pl.Series
    item_ids: pl.Series
    interactions: Interactions
    skips: Skips


def spill(batches: Iterator[pl.DataFrame], folder: Path, skips: Skips, max_bad: float) -> None:
    """Write batches (columns user, item, ...) to ``folder``, and check at the end that enough lines were usable.

    Raises:
        UserError: see :meth:`dataset_prep.skips.Skips.check`.
    """
    waiting: list[pl.DataFrame] = []
    rows = shards = 0
    for batch in batches:
        if batch.height:
            waiting.append(batch)
            rows += batch.height
        if rows >= _SHARD:
            _write_shard(waiting, folder, shards)
            waiting, rows, shards = [], 0, shards + 1
    skips.check(max_bad)
    if waiting:
        _write_shard(waiting, folder, shards)
    (folder / "skips.json").write_text(json.dumps(skips.as_dict()), encoding="utf-8")


def _write_shard(batches: list[pl.DataFrame], folder: Path, number: int) -> None:
    try:
        pl.concat(batches).write_parquet(folder / f"{number:05d}.parquet", compression="zstd")
    except pl.exceptions.PolarsError as error:
        # polars wraps the error of the operating system
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"a stage could not be written to {folder.parent} ({reason}): is the disk full?") from None


def gather(folder: Path) -> RawTable:
    """Read back what :func:`spill` wrote, with ids replaced by numbers.

    Ids are sorted, so that the numbers depend neither on the order of the lines nor on threads. This takes memory for
    the distinct ids and 20 bytes per interaction.
    """
    skips = Skips.from_dict(json.loads((folder / "skips.json").read_text(encoding="utf-8")))
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        empty = pl.Series("id", [], dtype=pl.String)
        nothing = np.zeros(0, dtype=np.int32)
        return RawTable(empty, empty, Interactions(nothing, nothing), skips)
    lazy = pl.scan_parquet(shards)
    ids = {
        side: lazy.select(pl.col(side).alias("id")).unique().collect(engine="streaming")["id"].sort()
        for side in ("user", "item")
    }
    heights = [pl.scan_parquet(shard).select(pl.len()).collect().item() for shard in shards]
    n, names = sum(heights), lazy.collect_schema().names()
    columns: dict[str, np.ndarray | None] = {
        "user": np.empty(n, dtype=np.int32),
        "item": np.empty(n, dtype=np.int32),
        "rating": np.empty(n, dtype=np.float32) if "rating" in names else None,
        "timestamp": np.empty(n, dtype=np.float64) if "timestamp" in names else None,
    }
    codes = {side: pl.DataFrame({side: ids[side], "code": np.arange(len(ids[side]), dtype=np.int32)}) for side in ids}
    start = 0
    for shard, height in zip(shards, heights):
        frame = pl.read_parquet(shard)
        for name, column in columns.items():
            if column is None:
                continue
            values = frame[name]
            if name in codes:
                numbered = frame.select(name).join(codes[name], on=name, how="left", maintain_order="left")
                values = numbered["code"]
            column[start : start + height] = values.to_numpy()
        start += height
    table = Interactions(columns["user"], columns["item"], columns["rating"], columns["timestamp"])
    return RawTable(ids["user"], ids["item"], table, skips)
