"""From raw files to a written dataset: the steps in their order.

read -> clean -> k-core -> split -> texts of the items -> modalities -> write

:func:`prepare_amazon` and :func:`prepare_table` differ in how they read; all the rest is shared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.extras import need

from .card import describe_source, versions
from .clean import at_least, latest_of_duplicates
from .factorise import RawTable, gather, spill
from .kcore import k_core
from .skips import MAX_BAD, Skips
from .split import METHODS, split
from .stages import Stages, fingerprint
from .tables import Interactions, Prepared
from .tokens import check_name
from .write import existing_card, write_dataset


@dataclass
class Options:
    """How to prepare; every field has an option of the same name on the command line."""

    #: Keep users and items with at least so many interactions, to the fixed point; 1 keeps all.
    k_core: int = 5
    #: Keep interactions rated so or better.
    min_rating: float | None = None
    #: One of :data:`dataset_prep.split.METHODS`.
    split: str = "mmrec"
    #: Of the random split and of TF-IDF's decomposition.
    seed: int = 999
    #: ``tfidf``, ``sentence-transformers:<name or folder>`` or ``none``.
    text_encoder: str = "tfidf"
    #: Width of ``tfidf``.
    text_width: int = 384
    #: Amazon's ``.b`` file of 4096-wide image features, or a folder of one ``.npy`` per item.
    image_features: str | Path | None = None
    #: A folder of images named by item id.
    images: str | Path | None = None
    #: ``timm:MODEL``, ``torchvision:MODEL`` or an :class:`dataset_prep.encoders.image.ImageEncoder`.
    image_encoder: object = None
    #: File of the network's weights.
    image_weights: str | Path | None = None
    #: Texts or images per step of an encoder.
    batch: int = 64
    #: Largest share of faulty lines in a file that is skipped.
    max_bad: float = MAX_BAD

    def check(self) -> None:
        """Raises:
        UserError: a value is out of its range, or two exclude each other; before any work is done.
        """
        if self.split not in METHODS:
            raise UserError(f"unknown split {self.split!r}; there are {', '.join(METHODS)}")
        if self.k_core < 0 or self.text_width < 1 or self.batch < 1:
            raise UserError("k-core, text width and batch are whole numbers from 0, 1 and 1")
        if self.image_features is not None and self.images is not None:
            raise UserError("--image-features and --images both give the images: choose one")
        if self.images is not None and self.image_encoder is None:
            raise UserError("--images needs --image-encoder (timm:MODEL or torchvision:MODEL)")
        if self.text_encoder.startswith("sentence-transformers:"):
            need("sentence_transformers", "features")
        elif self.text_encoder not in ("tfidf", "none"):
            raise UserError(
                f"unknown text encoder {self.text_encoder!r}; there are tfidf, "
                "sentence-transformers:<name or folder> and none"
            )


def prepare_amazon(
    reviews: str | Path,
    meta: str | Path | None,
    name: str,
    out: str | Path = "dataset",
    *,
    version: str | None = None,
    options: Options | None = None,
    command: str | None = None,
) -> tuple[Path, dict, bool]:
    """Prepare a category of Amazon Reviews 2014, 2018 or 2023.

    Args:
        reviews: JSON lines or a ratings table, plain or gzip.
        meta: the metadata file of the same version; without it there is no text.
        name, out: the dataset is written to ``<out>/<name>/``.
        version: "2014", "2018" or "2023"; None recognises it.
        command: for the card.

    Returns:
        (folder, card, whether anything changed).

    Raises:
        UserError: the input is at fault; nothing is written then.
    """
    need("polars", "prep")
    from .readers import amazon

    reviews, meta = Path(reviews), None if meta is None else Path(meta)
    for file in filter(None, (reviews, meta)):
        _must_exist(file)
    if version is not None and version not in amazon.VERSIONS:
        raise UserError(f"unknown version {version!r}; there are {', '.join(amazon.VERSIONS)}")
    module = amazon.recognise(reviews, meta) if version is None else amazon.VERSIONS[version]
    return _prepare(
        name,
        Path(out),
        reviews,
        meta,
        ["amazon", module.VERSION],
        lambda skips: amazon.read_reviews(reviews, module, skips),
        lambda wanted, skips: amazon.read_metadata(meta, module, wanted, skips),
        options or Options(),
        command,
        {"source_format": f"Amazon Reviews {module.VERSION}"},
    )


def prepare_table(
    interactions: str | Path,
    items: str | Path | None,
    name: str,
    out: str | Path = "dataset",
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    time_column: str | None = None,
    time_unit: str | None = None,
    item_id_column: str | None = None,
    text_columns: Sequence[str] = (),
    options: Options | None = None,
    command: str | None = None,
) -> tuple[Path, dict, bool]:
    """Prepare any table of interactions, with or without a table of items (CSV, TSV, Parquet, JSON lines).

    Columns that are not given are guessed from usual names. ``time_unit`` is one of s, ms, us, ns, iso.
    Returns and raises as :func:`prepare_amazon`.
    """
    need("polars", "prep")
    from .readers import tabular

    interactions, items = Path(interactions), None if items is None else Path(items)
    layout = tabular.layout_of(
        interactions,
        user=user_column,
        item=item_column,
        rating=rating_column,
        timestamp=time_column,
        time_unit=time_unit,
    )
    item_options = {"item": item_id_column, "texts": list(text_columns)}
    if items is not None:
        tabular.format_of(items)
    return _prepare(
        name,
        Path(out),
        interactions,
        items,
        ["table", repr(layout), item_options],
        lambda skips: tabular.read_interactions(interactions, layout, skips),
        lambda wanted, skips: tabular.read_items(items, wanted, skips, **item_options),
        options or Options(),
        command,
        {"source_format": "table", "columns": layout.columns(), "time_unit": layout.time_unit},
    )


def _must_exist(file: Path) -> None:
    if file.is_dir():
        raise UserError(f"{file} is a folder, expected a file")
    if not file.is_file():
        raise UserError(f"there is no file {file}")


def _prepare(
    name: str,
    out: Path,
    table: Path,
    items: Path | None,
    reader: list,
    read_batches: Callable[[Skips], Iterator],
    read_catalogue: Callable[[set[str], Skips], object],
    options: Options,
    command: str | None,
    facts: dict,
) -> tuple[Path, dict, bool]:
    check_name(name)
    options.check()
    existing_card(out / name)  # what must not be replaced is refused before the work, not after
    image_encoder = _image_encoder(options)
    described = [describe_source(file) for file in filter(None, (table, items))]
    stages = Stages(out, name)
    key = fingerprint(reader, described[0], options.max_bad)

    def read(folder: Path) -> None:
        skips = Skips(table)
        spill(read_batches(skips), folder, skips, options.max_bad)

    raw = gather(stages.folder_of("interactions", key, read))
    steps = [{"step": f"{raw.skips.lines:,} lines read", **raw.interactions.counts()}]
    kept, dropped = _clean(raw, options, steps)
    dropped = {f"{table.name}: {reason}": n for reason, n in sorted(raw.skips.counts.items())} | dropped
    user_codes, kept.users = _renumber(kept.users)
    item_codes, kept.items = _renumber(kept.items)
    user_ids = raw.user_ids.gather(user_codes).to_list()
    item_ids = raw.item_ids.gather(item_codes).to_list()
    del raw
    kept.split = split(kept, options.split, options.seed)

    prepared = Prepared(name, user_ids, item_ids, kept)
    notes: list[str] = []
    encoders: dict[str, str] = {}
    if options.image_features is not None or options.images is not None:
        array, encoders["image"], skips, source = _images(options, image_encoder, item_ids, stages)
        prepared.modalities["image"] = array
        dropped |= {f"{skips.file}: {reason}": n for reason, n in sorted(skips.counts.items())}
        described += source
        notes += skips.notes
    if items is not None:
        texts = _texts(prepared, stages, [reader, *described[:2]], read_catalogue, options, items)
        dropped |= texts["dropped"]
        notes += texts["notes"]
        _encode(prepared, texts["texts"], stages, options, encoders, items)
    elif options.text_encoder != "none":
        notes.append("no file tells about the items, so there is no text")

    prepared.card = {
        **facts,
        "sources": described,
        "split": None if options.split == "none" else {"method": options.split},
        "seed": options.seed,
        "options": {"k_core": options.k_core, "min_rating": options.min_rating, "max_bad": options.max_bad},
        "steps": steps,
        "dropped": dropped,
        "notes": notes,
        "encoders": encoders,
        "command": command,
        "versions": versions("polars", *(["sklearn"] if options.text_encoder == "tfidf" else [])),
    }
    result = write_dataset(prepared, out)
    stages.clear()
    return result


def _renumber(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the codes that occur, in order; their positions in that list (n,) int32 instead of them)."""
    occurs = np.bincount(codes) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - 1)[codes].astype(np.int32, copy=False)


def _image_encoder(options: Options):
    if options.images is None or not isinstance(options.image_encoder, str):
        return options.image_encoder
    from .encoders.image import load_encoder

    return load_encoder(options.image_encoder, options.image_weights)


def _clean(raw: RawTable, options: Options, steps: list[dict]) -> tuple[Interactions, dict[str, int]]:
    """The interactions that stay, and how many each step dropped; counts after each step go to ``steps``.

    Takes the interactions out of ``raw``, so that they are not held in memory twice.
    """
    rows, raw.interactions = raw.interactions, None
    if not len(rows):
        raise UserError("no interaction can be used, so there is nothing to write")
    dropped = {}
    for step, reason, mask_of in _steps(options):
        mask = mask_of(rows)
        before = len(rows)
        if not mask.all():
            rows = rows.take(np.flatnonzero(mask))
        dropped[reason] = before - len(rows)
        steps.append({"step": step, **rows.counts()})
        if not len(rows):
            option = "--min-rating" if step == "rating" else "--k-core"
            raise UserError(
                f"nothing is left of {before:,} interactions after the step '{step}': a lower {option} keeps more"
            )
    return rows, dropped


def _steps(options: Options) -> Iterator[tuple[str, str, Callable[[Interactions], np.ndarray]]]:
    """(step, why rows are dropped in it, mask of the rows that stay)."""
    yield "duplicates", "earlier of two of the same user and item", latest_of_duplicates
    if options.min_rating is not None:
        yield "rating", f"rated below {options.min_rating}", lambda rows: at_least(rows, options.min_rating)
    k = options.k_core
    yield f"{k}-core", f"outside the {k}-core", lambda rows: k_core(rows.users, rows.items, k)


def _texts(
    prepared: Prepared, stages: Stages, made_from: list, read_catalogue: Callable, options: Options, file: Path
) -> dict:
    """Sets the item columns of ``prepared``; gives texts, dropped lines and notes."""

    from .readers.items import read_joined

    def read(folder: Path) -> None:
        catalogue, skips = read_joined(read_catalogue, prepared.item_ids, file, options.max_bad)
        rows = [
            (item.clean_title(), item.text()) if (item := catalogue.items.get(token)) else ("", "")
            for token in prepared.item_ids
        ]
        notes = skips.notes + [f"{reason}: {n:,}" for reason, n in catalogue.again.items() if n]
        if absent := len(prepared.item_ids) - len(catalogue.items):
            notes.append(f"{absent:,} items are not in {file.name}; they are kept, without text")
        value = {
            "rows": rows,
            "notes": notes,
            "dropped": {f"{file.name}: {reason}": n for reason, n in sorted(skips.counts.items())},
        }
        (folder / "items.json").write_text(json.dumps(value), encoding="utf-8")

    key = fingerprint(made_from, options.max_bad, list(prepared.item_ids))
    value = json.loads((stages.folder_of("items", key, read) / "items.json").read_text(encoding="utf-8"))
    texts = [text for _, text in value["rows"]]
    prepared.item_columns = {
        "title:token_seq": [title for title, _ in value["rows"]],
        "text:token_seq": texts,
    }
    return {"texts": texts, "dropped": value["dropped"], "notes": value["notes"]}


def _encode(prepared: Prepared, texts: list[str], stages: Stages, options: Options, encoders: dict, file: Path) -> None:
    if options.text_encoder == "none":
        return
    if not any(texts):
        raise UserError(
            f"{file.name} has no text for any item: name the columns of texts (of a table: --text-columns), or take "
            "--text-encoder none"
        )
    from .encoders.text import encode_texts

    prepared.modalities["text"], encoders["text"] = encode_texts(
        texts, options.text_encoder, stages, width=options.text_width, seed=options.seed, batch=options.batch
    )


def _images(
    options: Options, encoder, item_ids: list[str], stages: Stages
) -> tuple[np.ndarray, str, Skips, list[dict]]:
    """(array, line for the card, counts of what was left out, the source if it is a file)."""
    if options.image_features is not None:
        from .vectors import read_image_features

        array, skips, source = read_image_features(options.image_features, item_ids, stages, options.max_bad)
        return array, f"as given in {source['name']}", skips, [source]
    from .encoders.image import encode_images

    array, skips = encode_images(options.images, item_ids, encoder, stages, batch=options.batch)
    return array, encoder.name, skips, []
