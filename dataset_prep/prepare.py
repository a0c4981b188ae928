"""From raw files to a written dataset.

read -> clean -> k-core -> split -> modalities -> write
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError

from .card import describe_source, versions
from .clean import latest_of_duplicates, rated_at_least
from .factorise import RawTable, gather, spill
from .kcore import k_core
from .options import Options
from .readers.items import read_matching_items
from .skips import Skips
from .sources import Source
from .split import split
from .stages import Stages, fingerprint
from .tables import Interactions, Prepared
from .tokens import check_name
from .write import Written, existing_card, write_dataset


def prepare(
    source: Source,
    name: str,
    out: str | Path = "dataset",
    *,
    options: Options | None = None,
    command: str | None = None,
) -> Written:
    """Prepare the dataset ``<out>/<name>/`` from raw files. If interrupted, the same call resumes where it stopped.

    Args:
        source: the raw files.
        options: the steps to take; the defaults of :class:`~dataset_prep.options.Options` if None.
        command: the command line, for the card.

    Raises:
        UserError: the input is at fault; nothing is written then.
    """
    out, options = Path(out), options or Options()
    check_name(name)
    options.check()
    existing_card(out / name)  # refuses a folder that must not be replaced before the work rather than after it
    image_encoder = _image_encoder(options)
    stages = Stages(out, name)
    history = _History([describe_source(file) for file in (source.interactions, source.items) if file is not None])

    prepared = _interactions(source, name, options, stages, history)
    _add_images(prepared, options, image_encoder, stages, history)
    _add_texts(prepared, source, options, stages, history)

    prepared.card = {
        **source.card,
        "sources": history.sources,
        "split": None if options.split == "none" else {"method": options.split},
        "seed": options.seed,
        "options": {"k_core": options.k_core, "min_rating": options.min_rating, "max_bad": options.max_bad},
        "steps": history.steps,
        "dropped": history.dropped,
        "notes": history.notes,
        "encoders": history.encoders,
        "command": command,
        "versions": versions("polars", *(["sklearn"] if options.text_encoder == "tfidf" else [])),
    }
    written = write_dataset(prepared, out)
    stages.clear()
    return written


@dataclass
class _History:
    """How a dataset came to be, for its card.

    Attributes:
        sources: descriptions of the files, that of the interactions first and that of the items second.
        steps: name and counts after each step.
        dropped: reason -> number of lines or interactions that were left out.
        notes: sentences for the user.
        encoders: modality -> what made its rows.
    """

    sources: list[dict]
    steps: list[dict] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    encoders: dict[str, str] = field(default_factory=dict)

    def add_skips(self, skips: Skips) -> None:
        self.dropped |= skips.dropped()
        self.notes += skips.notes


def _interactions(source: Source, name: str, options: Options, stages: Stages, history: _History) -> Prepared:
    """Read, clean and split the interactions; users and items are those that are left."""

    def read(folder: Path) -> None:
        skips = Skips(source.interactions)
        spill(source.read_interactions(skips), folder, skips, options.max_bad)

    key = fingerprint(source.settings, history.sources[0], options.max_bad)
    raw = gather(stages.folder_of("interactions", key, read))
    history.steps.append({"step": f"{raw.skips.lines:,} lines read", **raw.interactions.counts()})
    history.add_skips(raw.skips)
    kept = _clean(raw, options, history)
    user_codes, kept.users = _renumber(kept.users)
    item_codes, kept.items = _renumber(kept.items)
    user_ids = raw.user_ids.gather(user_codes).to_list()
    item_ids = raw.item_ids.gather(item_codes).to_list()
    kept.split = split(kept, options.split, options.seed)
    return Prepared(name, user_ids, item_ids, kept)


def _clean(raw: RawTable, options: Options, history: _History) -> Interactions:
    """The interactions that pass all steps.

    Takes the interactions out of ``raw``, so that they are not held in memory twice.
    """
    interactions, raw.interactions = raw.interactions, None
    if not len(interactions):
        raise UserError("no interaction can be used, so there is nothing to write")
    for step, reason, keep in _steps(options):
        mask = keep(interactions)
        before = len(interactions)
        if not mask.all():
            interactions = interactions.take(np.flatnonzero(mask))
        history.dropped[reason] = before - len(interactions)
        history.steps.append({"step": step, **interactions.counts()})
        if not len(interactions):
            option = "--min-rating" if step == "rating" else "--k-core"
            raise UserError(
                f"nothing is left of {before:,} interactions after the step '{step}': a lower {option} keeps more"
            )
    return interactions


def _steps(options: Options) -> Iterator[tuple[str, str, Callable[[Interactions], np.ndarray]]]:
    """(step, the reason for which it drops interactions, the mask of those that it keeps)."""
    yield "duplicates", "earlier of two of the same user and item", latest_of_duplicates
    if options.min_rating is not None:
        yield "rating", f"rated below {options.min_rating}", lambda table: rated_at_least(table, options.min_rating)
    k = options.k_core
    yield f"{k}-core", f"outside the {k}-core", lambda table: k_core(table.users, table.items, k)


def _renumber(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the codes that occur, in ascending order; the position (n,) int32 of each of ``codes`` among them)."""
    occurs = np.bincount(codes) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs, dtype=np.int32) - 1)[codes].astype(np.int32, copy=False)


def _image_encoder(options: Options):
    if options.images is None or not isinstance(options.image_encoder, str):
        return options.image_encoder
    from .encoders.image import load_encoder

    return load_encoder(options.image_encoder, options.image_weights)


def _add_images(prepared: Prepared, options: Options, encoder, stages: Stages, history: _History) -> None:
    if options.image_features is not None:
        from .vectors import read_image_features

        array, skips, source = read_image_features(options.image_features, prepared.item_ids, stages, options.max_bad)
        history.sources.append(source)
        history.encoders["image"] = f"as given in {source['name']}"
    elif options.images is not None:
        from .encoders.image import encode_images

        array, skips = encode_images(options.images, prepared.item_ids, encoder, stages, batch=options.batch)
        history.encoders["image"] = encoder.name
    else:
        return
    prepared.modalities["image"] = array
    history.add_skips(skips)


def _add_texts(prepared: Prepared, source: Source, options: Options, stages: Stages, history: _History) -> None:
    """Set the columns ``title`` and ``text`` of the items, and encode the texts."""
    if source.items is None:
        if options.text_encoder != "none":
            history.notes.append("no file describes the items, so there is no text")
        return
    titles, texts = _read_texts(prepared.item_ids, source, options, stages, history)
    prepared.item_columns = {"title:token_seq": titles, "text:token_seq": texts}
    if options.text_encoder == "none":
        return
    if not any(texts):
        raise UserError(
            f"{source.items.name} has no text for any item: name the columns that hold texts (of a table: "
            "--text-columns), or choose --text-encoder none"
        )
    from .encoders.text import encode_texts

    prepared.modalities["text"], history.encoders["text"] = encode_texts(
        texts, options.text_encoder, stages, width=options.text_width, seed=options.seed, batch=options.batch
    )


def _read_texts(
    item_ids: Sequence[str], source: Source, options: Options, stages: Stages, history: _History
) -> tuple[list[str], list[str]]:
    """(title, whole text) of each item, "" where there is none."""

    def read(folder: Path) -> None:
        catalogue, skips = read_matching_items(source.read_items, item_ids, source.items, options.max_bad)
        rows = [
            (item.clean_title(), item.text()) if (item := catalogue.items.get(item_id)) else ("", "")
            for item_id in item_ids
        ]
        notes = skips.notes + [f"{reason}: {n:,}" for reason, n in catalogue.repeated.items() if n]
        if absent := len(item_ids) - len(catalogue.items):
            notes.append(f"{absent:,} items are not in {source.items.name}; they are kept, without text")
        value = {"rows": rows, "notes": notes, "dropped": skips.dropped()}
        (folder / "items.json").write_text(json.dumps(value), encoding="utf-8")

    key = fingerprint([source.settings, *history.sources[:2]], options.max_bad, list(item_ids))
    value = json.loads((stages.folder_of("items", key, read) / "items.json").read_text(encoding="utf-8"))
    history.dropped |= value["dropped"]
    history.notes += value["notes"]
    return [title for title, _ in value["rows"]], [text for _, text in value["rows"]]
