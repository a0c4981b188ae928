"""``fetch-images``: the images that Amazon's metadata names."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import AMAZON_VERSIONS, add_command, add_max_bad, count, positive


def add(commands) -> None:
    command = add_command(
        commands,
        "fetch-images",
        "download the images named in Amazon metadata",
        "Download one image per item of a prepared dataset, politely: one at a time, at a limited rate, with retries. "
        "When started again, it resumes where it stopped. Failures are counted and listed in DIR/failed.tsv.",
        "fetch-images --meta meta_Baby.json.gz --dataset dataset/baby --images images/baby",
        run,
    )
    command.add_argument("--meta", required=True, metavar="FILE", help="metadata with the addresses of the images")
    command.add_argument("--dataset", required=True, metavar="DATASET", help="the dataset with the items to fetch")
    command.add_argument("--images", required=True, metavar="DIR", help="where to put the images")
    command.add_argument("--version", choices=AMAZON_VERSIONS, help="do not guess the version")
    command.add_argument("--rate", type=positive, default=2.0, help="requests per second (default: 2)")
    command.add_argument("--retries", type=count, default=4, help="after temporary failures (default: 4)")
    command.add_argument("--max-mb", type=positive, default=10.0, help="largest image, in MB (default: 10)")
    command.add_argument("--retry-failed", action="store_true", help="retry what failed permanently before")
    command.add_argument(
        "--allow-private",
        action="store_true",
        help="also connect to addresses that are not public, such as a local mirror",
    )
    add_max_bad(command)


def run(args: argparse.Namespace) -> int:
    from ..fetch import Fetcher, addresses_of, fetch_images
    from ..folder import read_card, read_items

    dataset = Path(args.dataset)
    items = read_items(dataset, read_card(dataset)["name"])["item_id"]
    addresses = addresses_of(args.meta, items, args.version, args.max_bad)
    fetcher = Fetcher(
        rate=args.rate,
        retries=args.retries,
        max_bytes=int(args.max_mb * (1 << 20)),
        allow_private=args.allow_private,
    )
    for outcome, n in fetch_images(addresses, args.images, fetcher, retry_failed=args.retry_failed).items():
        print(f"{outcome}: {n:,}")
    return 0
