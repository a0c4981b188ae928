"""Amazon Reviews 2018: JSON lines with the keys of 2014, metadata as JSON lines with lists.

Source: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/
"""

from __future__ import annotations

from .amazon2014 import LAYOUT
from .items import Item, joined, strings, web_addresses

__all__ = ["LAYOUT", "LITERALS", "RATINGS_HEADER", "VERSION", "is_metadata", "is_review", "item"]

VERSION = "2018"
#: Gift_Cards.csv has no header, and the item comes first
RATINGS_HEADER = ["asin", "reviewerID", "overall", "unixReviewTime"]
LITERALS = False


def is_review(record: dict) -> bool:
    """Whether the keys are those of a 2018 review and of no other version."""
    return "reviewerID" in record and any(key in record for key in ("verified", "style", "vote", "image"))


def is_metadata(record: dict) -> bool:
    """Whether the keys are those of 2018 metadata."""
    return "asin" in record and any(key in record for key in ("category", "imageURL", "also_buy", "main_cat"))


def item(record: dict) -> Item:
    """The item of a metadata record; missing or odd values become empty texts."""
    title = joined(record.get("title"))
    return Item(
        id=joined(record.get("asin")),
        # some titles of this release are the page's script instead
        title="" if "getTime(" in title else title,
        brand=joined(record.get("brand")),
        categories=list(strings(record.get("category"))),
        description=joined(record.get("description")),
        image_urls=web_addresses([*_list(record.get("imageURLHighRes")), *_list(record.get("imageURL"))]),
    )


def _list(value: object) -> list:
    return value if isinstance(value, list) else [value]
