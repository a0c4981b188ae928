"""Amazon Reviews 2023: JSON lines keyed by ``parent_asin``, timestamps in milliseconds.

Source: https://amazon-reviews-2023.github.io/
"""

from __future__ import annotations

from .batches import Layout
from .items import Item, joined, strings, web_addresses

VERSION = "2023"
LAYOUT = Layout("user_id", "parent_asin", "rating", "timestamp", "ms")
#: the rating-only tables carry their own header
RATINGS_HEADER = None
LITERALS = False


def is_review(record: dict) -> bool:
    """Whether the keys are those of a 2023 review."""
    return "user_id" in record and "parent_asin" in record


def is_metadata(record: dict) -> bool:
    """Whether the keys are those of 2023 metadata."""
    return "parent_asin" in record and "user_id" not in record


def item(record: dict) -> Item:
    """The item of a metadata record; missing or odd values become empty texts.

    Many items of this release have bullet points (``features``) and no description; both count as
    description.
    """
    details = record.get("details")
    brand = details.get("Brand") if isinstance(details, dict) else None
    return Item(
        id=joined(record.get("parent_asin")),
        title=joined(record.get("title")),
        brand=joined(brand) or joined(record.get("store")),
        categories=[*strings(record.get("main_category")), *strings(record.get("categories"))],
        description=joined([record.get("features"), record.get("description")]),
        image_urls=web_addresses(_addresses(record.get("images"))),
    )


def _addresses(images: object) -> list:
    """The main image first; ``images`` is a list of dicts or, in some copies, a dict of lists."""
    if isinstance(images, dict):
        columns = {key: value for key, value in images.items() if isinstance(value, list)}
        length = max(map(len, columns.values()), default=0)
        images = [{k: v[n] for k, v in columns.items() if n < len(v)} for n in range(length)]
    if not isinstance(images, list):
        return []
    images = [image for image in images if isinstance(image, dict)]
    images.sort(key=lambda image: image.get("variant") != "MAIN")
    return [image.get(size) for image in images for size in ("large", "hi_res", "thumb")]
