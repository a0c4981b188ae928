"""Time and memory that preparing a dataset from raw reviews takes.

::

    python benchmarks/prepare.py --reviews 10000000 --folder /somewhere/with/space

writes generated files of the 2018 format (reviews of about 400 bytes, gzip; metadata for every item),
prepares them in a process of its own as a user would, and prints lines per second and peak memory. Users
and items follow a power law; ``--keep`` leaves the files for another run.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
_WORDS = ["soft", "warm", "baby", "bottle", "night", "light", "wooden", "toy", "train", "crib", "safe", "cup"]
_CHUNK = 200_000


def popular(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """``size`` draws from 0..n-1 in which small numbers are frequent."""
    return (n * rng.random(size) ** 2).astype(np.int64)


def write_reviews(path: Path, n: int, n_users: int, n_items: int, seed: int = 0) -> int:
    """Generate ``n`` reviews; returns the number of bytes before compression."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(_WORDS, size)) for size in rng.integers(5, 80, 1000)]
    total = 0
    # level 1: the files are only used once, and decompression takes the same time at any level
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for start in range(0, n, _CHUNK):
            size = min(_CHUNK, n - start)
            users, items = popular(rng, n_users, size).tolist(), popular(rng, n_items, size).tolist()
            ratings, times = rng.integers(1, 6, size).tolist(), rng.integers(1.3e9, 1.5e9, size).tolist()
            chosen = rng.integers(0, len(texts), size).tolist()
            block = "".join(
                f'{{"overall": {rating}.0, "verified": true, "reviewTime": "06 17, 2018", '
                f'"reviewerID": "A{user:013d}", "asin": "B{item:09d}", "style": {{"Size:": " 50"}}, '
                f'"reviewerName": "", "reviewText": "{texts[text]}", "summary": "Five Stars", '
                f'"unixReviewTime": {moment}}}\n'
                for user, item, rating, moment, text in zip(users, items, ratings, times, chosen)
            ).encode()
            stream.write(block)
            total += len(block)
    return total


def write_metadata(path: Path, n_items: int, seed: int = 0) -> None:
    """Generate metadata of all items."""
    rng = np.random.default_rng(seed)
    with gzip.open(path, "wt", compresslevel=1) as stream:
        for item in range(n_items):
            words = rng.choice(_WORDS, 30).tolist()
            record = {
                "category": ["Baby", words[0]],
                "description": [" ".join(words)],
                "title": f"The {words[1]} {words[2]} {item}",
                "brand": words[3],
                "asin": f"B{item:09d}",
                "imageURL": [],
            }
            stream.write(json.dumps(record) + "\n")


def measure(command: list[str]) -> tuple[float, float, float]:
    """(wall-clock seconds, CPU seconds, peak resident memory in MB) of a command run as a child process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"the preparation failed\n{output}")
    print(output)
    # Linux counts kilobytes, macOS bytes
    cpu = usage.ru_utime + usage.ru_stime
    return seconds, cpu, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reviews", type=int, default=1_000_000, help="number of reviews (default: 1 million)")
    parser.add_argument("--folder", type=Path, required=True, help="folder for the files")
    parser.add_argument("--keep", action="store_true", help="keep the generated files")
    args = parser.parse_args()
    n = args.reviews
    n_users, n_items = max(n // 10, 10), max(n // 100, 10)
    args.folder.mkdir(parents=True, exist_ok=True)
    reviews, meta = args.folder / f"reviews_{n}.json.gz", args.folder / f"meta_{n}.json.gz"
    if not (reviews.exists() and meta.exists()):
        print(f"{write_reviews(reviews, n, n_users, n_items) / 1e9:.2f} GB of reviews generated")
        write_metadata(meta, n_items)
    base = [sys.executable, "-m", "dataset_prep"]
    nothing = "import recbole_mambarec, polars, numpy"
    _, _, empty = measure([sys.executable, "-c", nothing])
    words = ["amazon", "--reviews", str(reviews), "--meta", str(meta), "--name", "generated"]
    seconds, cpu, peak = measure([*base, *words, "--out", str(args.folder / "out")])
    card = json.loads((args.folder / "out" / "generated" / "dataset.json").read_text(encoding="utf-8"))
    kept = card["counts"]["interactions"]
    table_mb = kept * 20 / 1e6  # user and item int32, rating float32, timestamp float64
    text_mb = sum(facts["bytes"] for file, facts in card["files"].items() if file.endswith(".inter")) / 1e6
    print(f"machine: {os.cpu_count()} cores, Python {platform.python_version()}, {card['versions']}")
    print(
        "| reviews | kept | seconds | CPU seconds | lines/s | peak memory MB | imports alone MB "
        "| kept, as numbers MB | kept, as text MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {n:,} | {kept:,} | {seconds:.0f} | {cpu:.0f} | {n / seconds:,.0f} | {peak:,.0f} | {empty:,.0f} "
        f"| {table_mb:,.0f} | {text_mb:,.0f} |"
    )
    if not args.keep:
        reviews.unlink()
        meta.unlink()


if __name__ == "__main__":
    main()
