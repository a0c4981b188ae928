"""Amazon Reviews 2014 (SNAP): JSON lines or a ratings table; metadata as Python literals, one per line.

Source: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html
"""

from __future__ import annotations

from .batches import Layout
from .items import Item, joined, strings, web_addresses

VERSION = "2014"
LAYOUT = Layout("reviewerID", "asin", "overall", "unixReviewTime", "s")
#: ratings_Baby.csv has no header
RATINGS_HEADER = ["reviewerID", "asin", "overall", "unixReviewTime"]
LITERALS = True


def is_review(record: dict) -> bool:
    """Whether the keys are those of a 2014 review and of no other version."""
    return "reviewerID" in record and "helpful" in record


def is_metadata(record: dict) -> bool:
    """Whether the keys are those of 2014 metadata."""
    return "asin" in record and ("imUrl" in record or "categories" in record) and "parent_asin" not in record


def item(record: dict) -> Item:
    """The item of a metadata record; missing or odd values become empty texts."""
    return Item(
        id=joined(record.get("asin")),
        title=joined(record.get("title")),
        brand=joined(record.get("brand")),
        categories=list(strings(record.get("categories"))),
        description=joined(record.get("description")),
        image_urls=web_addresses([record.get("imUrl")]),
    )
