"""Orders by time that use the exact values of the file.

RecBole turns the interactions into float32 tensors first and sorts them by time afterwards, but float32 has steps of
128 at today's timestamps in seconds. Here the values of the file are read before RecBole normalises, fills in or rounds
them, and they accompany the interactions (:class:`TimedInteraction`), so that everything that sorts by the time field
(``order: TO``, splits by time, the sequences of sequential models, DiffRec) uses them. The column that models see stays
as RecBole makes it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_mambarec.compat.patching import wrap
from recbole_mambarec.data.atomic import Layout
from recbole_mambarec.errors import UserError

# up to here, float64 holds every whole number exactly
_EXACT = 2**53
# the name of the column that models see, while the time field holds the times of the file
_SHOWN = "shown time"


def install() -> None:
    """Wrap RecBole's ``Dataset`` and ``Interaction`` in the steps below; a second call changes nothing."""
    wrap(Dataset, "_load_feat", _load_whole_times)
    wrap(Dataset, "_remove_duplication", _remove_duplication_in_order)
    wrap(Dataset, "_filter_by_field_value", _filter_by_exact_value)
    wrap(Dataset, "_remap_ID_all", _remember_times)
    wrap(Dataset, "_dataframe_to_interaction", _interaction_with_times)
    wrap(Dataset, "time_based_split", _split_by_times)
    wrap(Interaction, "sort", _sort_stably)


class TimedInteraction(Interaction):
    """Interactions that are sorted by the times of the file wherever they are sorted by the time field.

    Args:
        interaction: field -> tensor, as RecBole has them.
        field: name of the time field.
        times: float64, shape ``(n,)``, by which interactions are ordered; NaN if there is no usable time.
        fault: the message for a user who asks for an order by time although some are NaN.
    """

    def __init__(self, interaction: dict[str, Tensor], field: str, times: Tensor, fault: str | None) -> None:
        super().__init__(interaction)
        self.time_field, self.times, self.fault = field, times, fault

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if isinstance(index, str):
            return found
        return TimedInteraction(found.interaction, self.time_field, self.times[index], self.fault)

    def _reindex(self, index) -> None:
        super()._reindex(index)
        self.times = self.times[index]

    def sort(self, by, ascending=True) -> None:
        """RecBole's ``sort``, by the times of the file.

        Raises:
            UserError: some of the interactions have no usable time.
        """
        if self.time_field not in ([by] if isinstance(by, str) else by) or self.time_field not in self:
            super().sort(by, ascending)
            return
        self.check_times()
        shown = self._exchange(self.times)
        try:
            # the column that models see takes the place of the times, so that it is sorted, too
            self.times = shown
            super().sort(by, ascending)
        finally:
            self.times = self._exchange(self.times)

    def check_times(self) -> None:
        """Refuse to order interactions without a time.

        Raises:
            UserError: some of the interactions have no usable time.
        """
        if bool(self.times.isnan().any()):
            raise UserError(self.fault)

    def _exchange(self, values: Tensor) -> Tensor:
        held, self.interaction[self.time_field] = self.interaction[self.time_field], values
        return held

    def plain(self) -> Interaction:
        """The same rows as RecBole's ``Interaction``, with the times of the file in the time field."""
        columns = self.interaction | {_SHOWN: self.interaction[self.time_field], self.time_field: self.times}
        return Interaction(columns)

    def from_plain(self, plain: Interaction) -> TimedInteraction:
        """The inverse of :meth:`plain`, for some of its rows."""
        columns = dict(plain.interaction)
        shown = columns.pop(_SHOWN)
        if self.time_field not in columns:
            # the key `unused_col` has removed it meanwhile
            return TimedInteraction(columns, self.time_field, shown, self.fault)
        times, columns[self.time_field] = columns[self.time_field], shown
        return TimedInteraction(columns, self.time_field, times, self.fault)


def times_of(column: pd.Series, name: str) -> tuple[np.ndarray, str | None]:
    """Numbers that order rows in the same way as the values of a column.

    Args:
        column: float64, int64 or text of numbers, shape ``(n,)``.
        name: the name of the column, for the message.

    Returns:
        float64, shape ``(n,)``: the values, or their ranks if whole numbers are too large for float64; NaN if unusable.
        And a sentence about the NaNs, if there are any.
    """
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.dtype.kind in "iu":
        whole = numbers.to_numpy()
        if len(whole) and max(int(whole.max()), -int(whole.min())) > _EXACT:
            return np.unique(whole, return_inverse=True)[1].astype(np.float64), None
        return whole.astype(np.float64), None
    times = numbers.to_numpy(dtype=np.float64, na_value=np.nan).copy()
    missing = column.isna().to_numpy()
    unusable = ~np.isfinite(times)
    large = ~unusable & (np.abs(times) > _EXACT)
    unusable |= large
    times[unusable] = np.nan
    if not unusable.any():
        return times, None
    if missing.any():
        count = f"{int(missing.sum())} of {len(times)} interactions have no value in the column {name}"
        return (
            times,
            f"{count}, so they have no place in an order by time: fill it in, remove the rows, or use order: RO",
        )
    example = str(column.iloc[int(np.argmax(unusable))])[:40]
    if large.any():
        kind = "that float64 does not hold exactly: write whole numbers of seconds or milliseconds"
    else:
        kind = "that is not a finite number: write times as numbers, e.g. seconds since 1970"
    return times, f"the column {name} orders the interactions and holds a value, {example}, {kind}"


def _load_whole_times(original: Callable, self, filepath, source):
    """Read times beyond 2^53, such as nanoseconds, as int64: RecBole's float64 rounds them (to 256 ns)."""
    frame = original(self, filepath, source)
    field = self.time_field
    if frame is None or source is not FeatureSource.INTERACTION or field not in frame:
        return frame
    if self.field2type[field] == FeatureType.FLOAT and frame[field].abs().max() > _EXACT:
        layout = Layout.of(self.config)
        text = pd.read_csv(
            filepath,
            delimiter=layout.separator,
            usecols=lambda head: head.partition(":")[0] == field,
            dtype=str,
            encoding=layout.encoding,
            engine="python",
        ).iloc[:, 0]
        numbers = pd.to_numeric(text, errors="coerce")
        if numbers.dtype.kind in "iu":
            frame[field] = numbers.to_numpy()
    return frame


def _remove_duplication_in_order(original: Callable, self) -> None:
    """Keep the first or last of each pair by the times of the file and, for equal times, by the order of lines.

    RecBole's own sort is not stable, so that chance decides between equal times, and it compares times of type
    ``token`` as text. Other values than ``first``, ``last`` and None are refused: with ``False``, all interactions that
    are repeated would be deleted, including the first of each.
    """
    keep, field = self.config["rm_dup_inter"], self.time_field
    if keep not in (None, "first", "last"):
        raise UserError(
            f"rm_dup_inter: {keep} is unknown: use first or last to keep that interaction of each pair of user and "
            "item, or leave it out to keep all"
        )
    if keep is None or field not in self.inter_feat or self.uid_field is None:
        original(self)
        return
    column = self.inter_feat[field]
    times, fault = times_of(column, _column_in_file(self, field))
    if np.isnan(times[self.inter_feat.duplicated([self.uid_field, self.iid_field], keep=False).to_numpy()]).any():
        raise UserError(fault)
    # without ties, any sort is stable
    place = np.empty(len(times), dtype=np.int64)
    place[np.argsort(times, kind="stable")] = np.arange(len(times))
    self.inter_feat[field] = place
    original(self)
    self.inter_feat[field] = column.loc[self.inter_feat.index]


def _filter_by_exact_value(original: Callable, self) -> None:
    """Refuse bounds for times that RecBole would compare as float64, which does not hold them."""
    field = self.time_field
    bounded = field in self.inter_feat and field in (self.config["val_interval"] or {})
    if bounded and self.inter_feat[field].dtype.kind in "iu":
        raise UserError(
            f"val_interval on {field} needs values that float64 holds exactly, up to 2^53: write the column "
            f"{_column_in_file(self, field)} in milliseconds"
        )
    original(self)


def _remember_times(original: Callable, self, *args, **kwargs):
    """Store the times after the last filter and before RecBole changes the column."""
    field = self.time_field
    if field in self.inter_feat and self.field2type[field] in (FeatureType.FLOAT, FeatureType.TOKEN):
        column = self.inter_feat[field]
        self.times_of_file = times_of(column, _column_in_file(self, field))
        if column.dtype.kind in "iu":
            self.inter_feat[field] = column.astype(np.float64)
    return original(self, *args, **kwargs)


def _interaction_with_times(original: Callable, self, data: pd.DataFrame) -> Interaction:
    """Attach the times of the file to the interactions."""
    interaction = original(self, data)
    if data is not self.inter_feat or "times_of_file" not in vars(self):
        return interaction
    times, fault = vars(self).pop("times_of_file")
    return TimedInteraction(interaction.interaction, self.time_field, torch.from_numpy(times), fault)


def _split_by_times(original: Callable, self, ratios, group_by):
    """Split by the times of the file (``split: {TS: ...}``) under any order.

    RecBole compares float32 values. It also finds each user's test part in sorted times and then takes these positions
    of the unsorted rows, so that under ``order: RO`` the test interactions are arbitrary.
    """
    timed = self.inter_feat
    if not isinstance(timed, TimedInteraction) or self.time_field not in timed:
        return original(self, ratios, group_by)
    timed.sort(self.time_field)
    self.inter_feat = timed.plain()
    parts = original(self, ratios, group_by)
    for part in parts:
        part.inter_feat = timed.from_plain(part.inter_feat)
    self.inter_feat = timed.from_plain(self.inter_feat)
    return parts


def _sort_stably(original: Callable, self, by, ascending=True) -> None:
    """Keep the order of equal rows also in a descending sort.

    RecBole reverses an ascending order, and with it the order of equal rows.

    No upstream issue known.
    """
    fields = [by] if isinstance(by, str) else by
    orders = [ascending] if isinstance(ascending, bool) else ascending
    valid = all(isinstance(given, (list, tuple)) for given in (fields, orders)) and all(f in self for f in fields)
    if not valid or all(orders) or len(orders) not in (1, len(fields)) or not all(type(o) is bool for o in orders):
        # nothing to do, or RecBole says what is wrong
        original(self, by, ascending)
        return
    keys = {}
    for place, (field, up) in enumerate(zip(fields, orders * len(fields) if len(orders) == 1 else orders)):
        values = self.interaction[field]
        keys[f"sort key {place}"] = values if up else -(values.int() if values.dtype == torch.bool else values)
    self.interaction.update(keys)
    try:
        original(self, list(keys))
    finally:
        for key in keys:
            del self.interaction[key]


def _column_in_file(dataset, field: str) -> str:
    """A column as it is in the file."""
    return f"{field}:{dataset.field2type[field].value} of '{dataset.dataset_name}'"
