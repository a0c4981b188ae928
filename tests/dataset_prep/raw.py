"""Functions that write small raw files in every format that dataset_prep reads, and find the real ones."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest

#: Times the usual number of examples that hypothesis tries on the parsers: FUZZ=20 pytest tests/dataset_prep
FUZZ = int(os.environ.get("FUZZ", "1"))
REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = [
    "soft",
    "baby",
    "bottle",
    "stroller",
    "warm",
    "night",
    "light",
    "toy",
    "wooden",
    "train",
    "crib",
    "safe",
]


def real_data(name: str) -> Path:
    """A folder of real data; the test is skipped if it is absent."""
    places = [os.environ.get("RECBOLE_MAMBAREC_DATA"), REPOSITORY.parent / "shared" / "data"]
    for place in filter(None, places):
        if (Path(place) / name).is_dir():
            return Path(place) / name
    pytest.skip(f"real data {name} is not here")


def pairs(n_users: int = 30, n_items: int = 20, each: int = 8, seed: int = 0) -> list[tuple[int, int, float, int]]:
    """(user, item, rating, seconds): every user has ``each`` distinct items."""
    rng = random.Random(seed)
    return [
        (user, item, float(rng.randint(1, 5)), 1_300_000_000 + 86_400 * rng.randrange(1000) + place)
        for user in range(n_users)
        for place, item in enumerate(rng.sample(range(n_items), each))
    ]


def user_id(number: int) -> str:
    return f"A{number:013d}"


def item_id(number: int) -> str:
    return f"B{number:09d}"


def text_of(item: int, n: int = 6) -> str:
    rng = random.Random(item)
    return " ".join(rng.choice(WORDS) for _ in range(n)) + f" model{item}"


def review(version: str, user: int, item: int, rating: float, seconds: int) -> dict:
    if version == "2023":
        return {
            "rating": rating,
            "title": "fine",
            "text": "works \N{GRINNING FACE}",
            "images": [],
            "asin": "X" + item_id(item)[1:],
            "parent_asin": item_id(item),
            "user_id": user_id(user),
            "timestamp": seconds * 1000 + 123,
        }
    extra = {"helpful": [0, 0]} if version == "2014" else {"verified": True, "style": {"Size:": " M"}}
    return {
        "reviewerID": user_id(user),
        "asin": item_id(item),
        "reviewText": "works \N{GRINNING FACE}",
        "overall": rating,
        "unixReviewTime": seconds,
        **extra,
    }


def metadata(version: str, item: int) -> dict:
    title, body = f"The {text_of(item, 2)}", text_of(item + 1000)
    if version == "2014":
        return {
            "asin": item_id(item),
            "title": title,
            "imUrl": f"http://images.example/{item}.jpg",
            "brand": 'It\'s "Good"',
            "categories": [["Baby", "Toys"], ["Baby", "Sleep"]],
            "description": f"<b>{body}</b> &amp; more",
        }
    if version == "2018":
        return {
            "asin": item_id(item),
            "title": title,
            "brand": "Good",
            "category": ["Baby", "Toys"],
            "description": [body, "second"],
            "imageURL": [f"https://images.example/{item}.jpg"],
            "imageURLHighRes": [],
        }
    return {
        "parent_asin": item_id(item),
        "main_category": "Baby",
        "title": title,
        "store": "Good Store",
        "categories": ["Baby", "Toys"],
        "features": ["washable"],
        "description": [body],
        "images": [
            {"variant": "PT01", "large": "https://images.example/back.jpg"},
            {"variant": "MAIN", "large": f"https://images.example/{item}.jpg", "hi_res": None},
        ],
        "details": {"Brand": "Good"},
    }


def encode_line(version: str, record: dict) -> bytes:
    text = repr(record) if version == "2014-meta" else json.dumps(record)
    return text.encode("utf-8") + b"\n"


def write_lines(path: Path, lines: list[bytes]) -> Path:
    content = b"".join(lines)
    # no time and no name in the gzip header, so that the same content is the same file
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def write_category(folder: Path, version: str, rows=None, n_items: int = 20, packed: bool = True):
    """(reviews, metadata) of a small category; every fifth item has no metadata record."""
    rows = pairs(n_items=n_items) if rows is None else rows
    ending = ".json.gz" if packed else ".json"
    folder.mkdir(parents=True, exist_ok=True)
    reviews = write_lines(folder / f"reviews{ending}", [encode_line(version, review(version, *row)) for row in rows])
    kind = "2014-meta" if version == "2014" else version
    lines = [encode_line(kind, metadata(version, item)) for item in range(n_items) if item % 5 != 4]
    return reviews, write_lines(folder / f"meta{ending}", lines)


def write_b(path: Path, ids: list[bytes], rows: np.ndarray, cut: int = 0) -> Path:
    """A ``.b`` file; ``cut`` bytes are missing at its end."""
    content = b"".join(one.ljust(10)[:10] + row.astype("<f4").tobytes() for one, row in zip(ids, rows))
    path.write_bytes(content[: len(content) - cut])
    return path


def write_mmrec(folder: Path, n_users=12, n_items=10, maps: bool = False, seed: int = 0) -> Path:
    """A small folder in MMRec's layout with image (5 wide) and text (3 wide)."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["userID\titemID\tx_label"]
    for user in range(n_users):
        for place, item in enumerate(rng.permutation(n_items)[:5]):
            lines.append(f"{user}\t{item}\t{max(0, place - 2)}")
    (folder / "small.inter").write_text("\n".join(lines) + "\n")
    np.save(folder / "image_feat.npy", rng.standard_normal((n_items, 5)).astype(np.float32))
    np.save(folder / "text_feat.npy", rng.standard_normal((n_items, 3)).astype(np.float16))
    if maps:
        items = "".join(f"{item_id(n)}\t{n}\n" for n in reversed(range(n_items)))
        users = "".join(f"{user_id(n)}\t{n}\n" for n in range(n_users))
        (folder / "i_id_mapping.csv").write_text("asin\titemID\n" + items)
        (folder / "u_id_mapping.csv").write_text("user_id\tuserID\n" + users)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file under a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
