"""How RecBole's datasets read atomic files: byte order marks, encodings, and files that do not fit each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pandas.errors import ParserError
from recbole.data.dataset import Dataset, KnowledgeBasedDataset
from recbole.utils import FeatureSource, FeatureType

from recbole_mambarec.compat.patching import wrap
from recbole_mambarec.data.atomic import Layout, first_lines, typed_columns, undecodable
from recbole_mambarec.data.folder import interaction_files
from recbole_mambarec.errors import UserError, one_line
from recbole_mambarec_common.ids import LEAST_SHARE, mismatch, respelled

# tables without which a dataset cannot be built; RecBole names the one of a link by its suffix
_NEEDED = (FeatureSource.INTERACTION, FeatureSource.KG, "link")
# the ids that a table must have
_IDS = {
    FeatureSource.INTERACTION: ("uid_field", "iid_field"),
    FeatureSource.USER: ("uid_field",),
    FeatureSource.ITEM: ("iid_field",),
}


def install() -> None:
    """Wrap RecBole's steps in ours; a second call changes nothing."""
    wrap(Dataset, "_load_feat", _read_as_written)
    wrap(Dataset, "_load_data", _check_tables)
    wrap(KnowledgeBasedDataset, "_load_kg", _check_graph)
    wrap(KnowledgeBasedDataset, "_load_link", _check_link)


class _ReadAs:
    """A configuration whose keys for the layout of atomic files have the values that our readers use."""

    def __init__(self, config, layout: Layout) -> None:
        self._config = config
        self._values = {"encoding": layout.encoding, "field_separator": layout.separator}

    def __getitem__(self, key: str):
        return self._values[key] if key in self._values else self._config[key]

    def __contains__(self, key: str) -> bool:
        return key in self._values or key in self._config

    def __getattr__(self, name: str):
        return getattr(self._config, name)


def _read_as_written(original: Callable, self, filepath, source):
    """Read UTF-8 with or without a byte order mark, and report a faulty file in one sentence.

    RecBole takes the three bytes of a mark as part of the first column's name and does not find that column: it ignores
    a ``.item`` file silently, and an ``.inter`` file fails with an error about columns. It opens a file once in the
    encoding of the locale and once in UTF-8, and cuts off the last letter of a first line without a line end.
    """
    path, config = Path(filepath), self.config
    wanted = _columns_to_load(config, source)
    if wanted == []:
        table = original(self, filepath, source)  # which does not read the file
    else:
        layout = Layout.of(config)
        header, first = first_lines(path, layout)
        columns = typed_columns(path, header, layout)
        unknown = [name for name in wanted or () if name not in columns]
        if unknown:
            self.logger.warning(f"load_col names the column '{unknown[0]}', which {path} does not have")
        if not first and path.stat().st_size < 1 << 16 and not path.read_bytes().endswith((b"\n", b"\r", b"\0")):
            raise UserError(f"{path} has nothing but a first line without a line end: add the rows")
        table = _in_layout(original, self, path, source, layout)
        if table is not None:
            _check_joined_lines(self, path, len(table), layout)
    if table is None and source in _NEEDED:
        raise UserError(f"load_col and unload_col leave no column of {path}: load its ids")
    needed = [getattr(self, field) for field in _IDS.get(source, ())]
    lacking = [field for field in needed if table is not None and field is not None and field not in table]
    if lacking:
        raise UserError(
            f"{path} is read without a column '{lacking[0]}': name the id columns with USER_ID_FIELD and "
            "ITEM_ID_FIELD, and load them with load_col"
        )
    return table


def _columns_to_load(config, source) -> list[str] | None:
    """The columns of a file that ``load_col`` names; None for all."""
    load_col = config["load_col"]
    if load_col is None:
        return None
    columns = load_col.get(getattr(source, "value", source), [])
    return None if columns == "*" else list(columns)


def _in_layout(original: Callable, self, path: Path, source, layout: Layout):
    """Let RecBole read a file that is written in ``layout``."""
    config = self.config
    self.config = _ReadAs(config, layout)
    try:
        return original(self, str(path), source)
    except UnicodeError as error:
        raise undecodable(path, layout.encoding) from error
    except KeyError as error:
        if source != "link":
            raise
        raise UserError(
            f"{path} has a column {error}, which is not an id: name its columns with ITEM_ID_FIELD and ENTITY_ID_FIELD"
        ) from error
    except ParserError as error:
        raise UserError(
            f"RecBole cannot read an atomic file of this dataset, {path} ({one_line(error)}): remove quotation "
            "marks and check that every line has as many columns as the first"
        ) from error
    except ValueError as error:
        # a column that is declared as a number holds something else, load_col contradicts unload_col, ...
        raise UserError(f"{path} cannot be read: {one_line(error)}") from error
    finally:
        self.config = config


def _check_joined_lines(self, path: Path, rows: int, layout: Layout) -> None:
    """Report when RecBole takes a quotation mark for the start of a text that ends some lines further down.

    The users or items of these lines are lost, and so are their interactions. In a prepared dataset, whose files have
    one row per line, that is an error.
    """
    with open(path, "rb") as stream:
        if not any(b'"' in block for block in iter(lambda: stream.read(1 << 20), b"")):
            return
    with open(path, encoding=layout.encoding) as stream:
        lines = sum(1 for line in stream if line.strip(" \r\n")) - 1
    if rows >= lines:
        return
    message = f"RecBole reads only {rows} of the {lines} rows of {path}, whose lines are joined between quotation marks"
    if getattr(self.config, "checked_by_recbole_mambarec", False):
        raise UserError(f"{message}: remove quotation marks from the file")
    self.logger.warning(f"{message}: unless these are texts of several lines, remove quotation marks from the file")


@contextmanager
def _in_one_sentence(name: str) -> Iterator[None]:
    """What RecBole finds missing in the tables of a dataset, as an error of the user's."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, AssertionError) as error:
        raise UserError(f"dataset '{name}' cannot be read: {one_line(error)}") from error


def _check_tables(original: Callable, self, token, dataset_path) -> None:
    """Refuse tables that are missing, that lack their ids, or whose ids differ from those of the interactions.

    RecBole joins the features of users and items to the interactions by their ids. If one table writes them differently
    (``26.0`` and ``26``), its rows count as other users or items, and the interactions are dropped silently because
    their users or items are unknown.
    """
    folder = Path(dataset_path)
    with _in_one_sentence(token):
        if folder.is_dir():  # otherwise RecBole downloads it
            interaction_files(folder, token, self.benchmark_filename_list)
        original(self, token, dataset_path)
    ids = [field for field in (self.uid_field, self.iid_field) if field is not None]
    if not len(self.inter_feat):
        raise UserError(f"the interaction files of '{token}' have no rows: there is nothing to learn from")
    wrong = [field for field in ids if self.field2type[field] != FeatureType.TOKEN]
    if wrong:
        raise UserError(
            f"column '{wrong[0]}' of dataset '{token}' is of type {self.field2type[wrong[0]].value}, but ids are "
            f"tokens: write it as {wrong[0]}:token in the first line of each file"
        )
    tables = (("user", self.uid_field, self.user_feat), ("item", self.iid_field, self.item_feat))
    for kind, field, table in tables:
        if field is None:
            continue
        if table is not None:
            _check_ids(self.inter_feat[field], table[field], kind, "the interactions", str(folder / f"{token}.{kind}"))
        if self.benchmark_filename_list is not None:
            _check_parts(self, field, kind)


def _check_ids(used, listed, kind: str, using: str, listing: str) -> None:
    """Refuse a table that lists under 1 % of the ids that are used, or writes 1 % or more of them differently."""
    used, listed = used.dropna().unique(), set(listed)
    unknown = sum(token not in listed for token in used)
    if unknown and unknown >= LEAST_SHARE * len(used):
        sentence = mismatch(used, listed, kind, using, listing)
        if sentence:
            raise UserError(sentence)


def _check_parts(self, field: str, kind: str) -> None:
    """Refuse parts of a split that write their ids differently from the first, so that nothing learnt would apply."""
    names, ends = self.benchmark_filename_list, np.cumsum(self.file_size_list)
    slices = zip([0, *ends], ends)
    first, *later = (self.inter_feat[field].iloc[start:end].dropna().unique() for start, end in slices)
    ids_of_first = set(first)
    for name, used in zip(names[1:], later):
        # a part may have users or items of its own, for cold start
        few = sum(token in ids_of_first for token in used) < LEAST_SHARE * len(used)
        if few and respelled(used, ids_of_first):
            raise UserError(mismatch(used, ids_of_first, kind, f"the part '{name}'", f"the part '{names[0]}'"))


def _check_graph(original: Callable, self, token, dataset_path):
    """Report in one sentence what a table of a knowledge graph lacks."""
    with _in_one_sentence(token):
        return original(self, token, dataset_path)


def _check_link(original: Callable, self, token, dataset_path):
    """Refuse a link to a knowledge graph that lists none of the items: RecBole would drop all interactions."""
    with _in_one_sentence(token):
        links = original(self, token, dataset_path)
    path = str(Path(dataset_path) / f"{token}.link")
    _check_ids(self.inter_feat[self.iid_field], links[0], "item", "the interactions", path)
    return links
