"""Which items of a catalogue lack which modalities: drawn by a rule, read from a file, written to one.

A mask says for each modality which rows of the ``.item`` file are hidden, bool ``(n_items,)``. It is applied where
feature rows are matched to items; arrays stay whole.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.files import atomic_file, what_it_is
from recbole_mambarec_common.ids import mismatch

#: modality -> which items lack it, bool ``(n_items,)``
Mask = dict[str, np.ndarray]

#: letters of the published masks
LETTERS = {"t": "text", "v": "image", "a": "audio"}
ALL = "all"
DEFAULT_SEED = 999
#: Share of the items that count as less popular. The published masks are even within the two groups of this division.
COLD_SHARE = 0.7
_FORMAT = "recbole_mambarec.mask/1"


class Rule(NamedTuple):
    """How a mask is drawn.

    Attributes:
        rate: share of the items that lack at least one modality, from 0 to 1.
        kinds: what an item can lack: modalities joined by ``+``, or ``all``; None: every combination.
        seed: of the draw.
    """

    rate: float
    kinds: tuple[str, ...] | None = None
    seed: int = DEFAULT_SEED

    def __str__(self) -> str:
        return f"rate {self.rate:g}, kinds {', '.join(self.kinds or ('any',))}, seed {self.seed}"


# ------------------------------------------------------------------------------------------------------------
# drawing


def popularity_groups(counts: np.ndarray, cold_share: float = COLD_SHARE) -> np.ndarray:
    """0 for the ``cold_share`` of the items with the fewest training interactions, 1 for the others.

    Args:
        counts: training interactions of each item, ``(n_items,)``. Of equal ones, those later in the catalogue count as
            less popular.
    """
    groups = np.zeros(len(counts), dtype=np.int8)
    warm = len(counts) - round(cold_share * len(counts))
    groups[np.argsort(-np.asarray(counts), kind="stable")[:warm]] = 1
    return groups


def draw(rule: Rule, modalities: Sequence[str], groups: np.ndarray) -> Mask:
    """Draw a mask, group by group, so that each group has the rate and the kinds of the whole.

    How many modalities an item lacks is distributed evenly over the numbers that ``kinds`` allows, and so are the kinds
    of each number: with two modalities a quarter of the chosen items lacks the first, a quarter the second, and half
    both. Masks of one seed are nested: what an item lacks at a rate, it lacks at every higher one.

    Args:
        modalities: of the dataset.
        groups: the group of each item, ``(n_items,)``.

    Raises:
        UserError: there is no modality, a kind names another one, or two kinds are the same.
    """
    kinds = kinds_of(rule.kinds, modalities)
    sizes = [len(kind) for kind in kinds]
    shares = np.array([1.0 / sizes.count(size) for size in sizes]) / len(set(sizes))
    mask = {modality: np.zeros(len(groups), dtype=bool) for modality in modalities}
    rng = np.random.default_rng(rule.seed)
    for group in np.unique(groups):
        items = rng.permutation(np.flatnonzero(groups == group))
        numbers = _in_proportion(shares, len(items))[: round(rule.rate * len(items))]
        for number, kind in enumerate(kinds):
            for modality in kind:
                mask[modality][items[: len(numbers)][numbers == number]] = True
    return mask


def _in_proportion(shares: np.ndarray, count: int) -> np.ndarray:
    """``count`` numbers below ``len(shares)``, in an order in which every beginning has nearly these shares."""
    quotas = np.ceil(shares * count).astype(int) + 1
    numbers = np.repeat(np.arange(len(shares)), quotas)
    turns = np.concatenate([(np.arange(quota) + 0.5) / share for quota, share in zip(quotas, shares)])
    return numbers[np.argsort(turns, kind="stable")][:count]


def kinds_of(names: Sequence[str] | None, modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """The modalities of each kind; every combination if ``names`` is None.

    Raises:
        UserError: see :func:`draw`.
    """
    if not modalities:
        raise UserError("missing_modalities hides modalities, and the dataset has none: leave it out")
    if names is None:
        sizes = range(1, len(modalities) + 1)
        return list(itertools.chain.from_iterable(itertools.combinations(modalities, size) for size in sizes))
    kinds = [kind_of(name, modalities) for name in names]
    unknown = [modality for kind in kinds for modality in kind if modality not in modalities]
    if unknown:
        raise UserError(
            f"missing_modalities: the dataset has no modality '{unknown[0]}', its modalities are "
            f"{', '.join(modalities)}"
        )
    if len({frozenset(kind) for kind in kinds}) < len(kinds) or not kinds:
        raise UserError(f"missing_modalities: kinds must name different combinations, got {', '.join(names) or 'none'}")
    return kinds


def kind_of(name: str, modalities: Sequence[str]) -> tuple[str, ...]:
    """The modalities that a kind names: one of them, some joined by ``+``, ``all``, or letters (``t``, ``v``, ``a``).

    The letters stand for text, image and audio, whether or not the dataset has these.

    Raises:
        UserError: it names something else.
    """
    if name == ALL and ALL not in modalities:
        return tuple(modalities)
    parts = [part.strip() for part in name.split("+")]
    if len(parts) == 1 and name not in modalities and name and set(name) <= set(LETTERS):
        parts = list(name)
    found = tuple(part if part in modalities else LETTERS.get(part, part) for part in parts)
    strange = [part for part in found if part not in modalities and part not in LETTERS.values()]
    if strange or len(set(found)) < len(found):
        raise UserError(
            f"missing_modalities: '{name}' names no modalities of the dataset: use {', '.join(modalities)}, several "
            "joined by '+', or all"
        )
    return found


# ------------------------------------------------------------------------------------------------------------
# files


def items_key(items: Sequence[str]) -> str:
    """Fingerprint (hexadecimal) of a catalogue: the ids of the items in the order of the ``.item`` file."""
    return hashlib.sha256("\n".join(map(str, items)).encode()).hexdigest()[:16]


def mask_key(mask: Mapping[str, np.ndarray]) -> str:
    """Fingerprint (hexadecimal) of the contents of a mask."""
    digest = hashlib.sha256()
    for modality in sorted(name for name, hidden in mask.items() if hidden.any()):
        digest.update(modality.encode() + b"\0" + np.packbits(mask[modality]).tobytes())
    return digest.hexdigest()[:16]


def write_mask(path: str | Path, mask: Mapping[str, np.ndarray], items: Sequence[str], drawn: str = "") -> None:
    """Write a mask as CSV: a line per item and modality that it lacks, under comments with fingerprints.

    Args:
        items: ids of the catalogue, ``(n_items,)``.
        drawn: how it was drawn.
    """
    text = io.StringIO()
    text.write(f"# {_FORMAT}\n# items: {items_key(items)}\n# content: {mask_key(mask)}\n")
    text.write(f"# drawn: {drawn}\n" if drawn else "")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["item_id", "modality"])
    for modality, hidden in mask.items():
        writer.writerows([items[row], modality] for row in np.flatnonzero(hidden).tolist())
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def read_mask(
    path: str | Path, items: Sequence[str], modalities: Sequence[str], numbered: bool = False, drawn: bool = False
) -> Mask:
    """Read a mask, in the published form (``.npz``) or ours (CSV, or YAML: modality -> ids of the items that lack it).

    The arrays of a ``.npz`` are called by kinds (:func:`kind_of`) and hold numbers of items: their ids where the ids
    are numbers, otherwise rows of the ``.item`` file, as ``dataset_prep`` writes it for numbered data.

    Args:
        items: ids of the catalogue, ``(n_items,)``.
        modalities: of the dataset. What a mask says of text, image or audio, which the dataset may not have, is left
            out.
        numbered: whether the rows of the ``.item`` file are in the order of the published numbers.
        drawn: whether the file stands for the rule by which it was drawn, so that it must be as it was written.

    Raises:
        UserError: the file cannot be read, names items or modalities that do not exist, was made for another catalogue,
            was changed after it was drawn, or hides nothing of what the dataset has.
    """
    path = Path(path)
    comments: dict[str, str] = {}
    if path.suffix == ".npz":
        pairs = _from_npz(path, items, numbered)
    else:
        lines = _text(path).split("\n")
        top = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
        comments = dict(line.lstrip("# ").split(": ", 1) for line in top if ": " in line)
        of_other_items = comments.get("items") not in (None, items_key(items))
        of_yaml = path.suffix in (".yaml", ".yml")
        pairs = _from_yaml(path, "\n".join(lines)) if of_yaml else _from_csv(path, lines[len(top) :])
        _check_items(path, pairs.values(), items, of_other_items)
    row_of = {str(item): row for row, item in enumerate(items)}
    mask = {modality: np.zeros(len(items), dtype=bool) for modality in modalities}
    complete = True
    for name, ids in pairs.items():
        try:
            kind = kind_of(name, modalities)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        rows = [row_of[item] for item in ids]
        complete = complete and set(kind) <= mask.keys()
        for modality in kind:
            if modality in mask:
                mask[modality][rows] = True
    content = comments.get("content")
    if drawn and content != mask_key(mask):
        raise UserError(
            f"{path} was changed after it was drawn: delete the file to draw it again, or rename it and name it with "
            "missing_modalities"
        )
    if content not in (None, mask_key(mask)) and complete:
        raise UserError(f"{path} was changed after it was drawn: delete its line '# content: ...' to use it as it is")
    if not any(hidden.any() for hidden in mask.values()):
        raise UserError(f"{path} hides nothing that the dataset has: its modalities are {', '.join(modalities)}")
    return mask


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"missing_modalities: there is no file {path}") from None
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} is not a mask but {what_it_is(path) or 'no text in UTF-8'}") from None


def read_numbers(path: Path, key: str) -> dict[str, np.ndarray]:
    """The arrays of a published file, each with numbers of items.

    Args:
        key: that names the file.

    Raises:
        UserError: there is no such file, it is damaged or of another kind, or an array holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise UserError(f"{key}: there is no file {path}") from None
    # a single array (.npy) under this name is no context manager, which is an AttributeError or a TypeError
    except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, zipfile.BadZipFile):
        raise UserError(f"{path} is not an archive of arrays: it is {what_it_is(path) or 'damaged'}") from None
    for name, numbers in arrays.items():
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise UserError(f"{path}: the array '{name}' must hold numbers of items, got {numbers.dtype}")
    return arrays


def _from_npz(path: Path, items: Sequence[str], numbered: bool) -> dict[str, list[str]]:
    arrays = read_numbers(path, "missing_modalities")
    if set(arrays) == {"items"}:
        raise UserError(f"{path} lists new items, not what items lack: give it as new_items")
    return {name: ids_of_numbers(path, numbers, items, numbered) for name, numbers in arrays.items()}


def names_items(path: Path) -> bool:
    """Whether the arrays of a ``.npz`` are called as those of a published mask or list of new items are."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False
    return bool(names) and all(name in ("items", ALL) or set(name) <= set(LETTERS) for name in names)


def ids_of_numbers(path: Path, numbers: np.ndarray, items: Sequence[str], numbered: bool) -> list[str]:
    """The ids of items that a published file names by number.

    Raises:
        UserError: there is no such item, or the catalogue is not numbered.
    """
    ids = set(items)
    if all(str(item).isdecimal() for item in items):
        strange = [number for number in numbers.tolist() if str(number) not in ids]
        found = [str(number) for number in numbers.tolist()]
    elif numbered:
        strange = [number for number in numbers.tolist() if not 0 <= number < len(items)]
        found = [] if strange else [str(items[number]) for number in numbers.tolist()]
    else:
        raise UserError(
            f"{path} names items by number, and the ids of the dataset (such as '{items[0]}') are no numbers: name "
            "them by id, in a CSV file"
        )
    if strange:
        raise UserError(
            f"{path} names item {strange[0]}, which is not among the {len(items)} items of the dataset: it was made "
            "for other data"
        )
    return found


def _from_csv(path: Path, lines: list[str]) -> dict[str, list[str]]:
    lines = [line for line in lines if line.strip()]
    separator = "\t" if lines and "\t" in lines[0] else ","
    rows = list(csv.reader(lines, delimiter=separator))
    header = [cell.partition(":")[0].strip() for cell in rows[0]] if rows else []
    if header != ["item_id", "modality"]:
        raise UserError(f"{path} is not a mask: its first line must be item_id,modality, got {','.join(header)[:60]!r}")
    pairs: dict[str, list[str]] = {}
    for row in rows[1:]:
        if len(row) != 2:
            raise UserError(f"{path}: expected an item and a modality in every line, got {','.join(row)[:60]!r}")
        pairs.setdefault(row[1].strip(), []).append(row[0].strip())
    return pairs


class _EveryKeyOnce(yaml.BaseLoader):
    """YAML whose mappings name no key twice, of which the last would count."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' occurs twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _from_yaml(path: Path, text: str) -> dict[str, list[str]]:
    try:
        # every scalar as it is written: 007 is an id, not a number
        content = yaml.load(text, Loader=_EveryKeyOnce)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not all(isinstance(ids, list) for ids in content.values()):
        raise UserError(f"{path} is not a mask: it must map modalities to lists of items")
    return {str(name): [str(item) for item in ids] for name, ids in content.items()}


def _check_items(path: Path, lists: Collection[list[str]], items: Sequence[str], of_other_items: bool) -> None:
    listed = set(map(str, items))
    used = list(dict.fromkeys(itertools.chain.from_iterable(lists)))
    unknown = [item for item in used if item not in listed]
    if unknown:
        raise UserError(
            mismatch(used, listed, "item", str(path), "the dataset")
            or f"{path} names {len(unknown)} items that the dataset does not have, e.g. '{unknown[0]}': remove them, "
            "or use the mask of this dataset"
        )
    if of_other_items:
        raise UserError(f"{path} was made for another list of items than that of the dataset: draw it again")
