"""Item neighbours: the approximate search against the exact one.

    python -m benchmarks.neighbours --dataset baby --data_path dataset [--k 10] [--rows 2000] [--key=value ...]

Per modality of a prepared dataset: CPU seconds of the approximate search, and its recall: the share of the exact
neighbours of ``--rows`` random items (the item itself aside) that it finds. Exact neighbours are computed for those
items alone.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import sys
import time

import numpy as np
import torch

from recbole_mambarec.data.graphs.approximate import approximate_neighbours
from recbole_mambarec.data.graphs.neighbours import unit_rows
from recbole_mambarec.data.rows import Rows, blocks


def exact_for(features: Rows, rows: np.ndarray, k: int, present: np.ndarray) -> np.ndarray:
    """The ``k`` most similar other items of each of ``rows``, ``(len(rows), k)``."""
    mine = unit_rows(features[rows])
    similarity = torch.cat([mine @ unit_rows(block).T for _, block in blocks(features)], dim=1)
    similarity[:, ~torch.from_numpy(present)] = -torch.inf
    similarity[torch.arange(len(rows)), torch.from_numpy(rows)] = -torch.inf
    return similarity.topk(k, dim=1).indices.numpy()


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--k", type=int, default=10, help="neighbours, the item itself included")
    parser.add_argument("--rows", type=int, default=2000)
    options, rest = parser.parse_known_args()
    import recbole_mambarec  # noqa: F401  isort: skip
    from recbole.config import Config
    from recbole.data import create_dataset

    # RecBole parses the rest of the command line itself
    sys.argv = [sys.argv[0], *rest]
    config = Config("MambaRec", options.dataset, config_dict={"data_path": options.data_path, "show_progress": False})
    for name, modality in create_dataset(config).item_features.items():
        features, present = modality.items, modality.present[1:]
        started = time.process_time()
        found = approximate_neighbours(features, options.k, present)
        seconds = time.process_time() - started
        there = np.flatnonzero(present)
        rows = np.random.default_rng(0).choice(there, min(options.rows, len(there)), replace=False)
        exact = exact_for(features, rows, options.k - 1, present)
        recall = np.mean([np.isin(a, b).mean() for a, b in zip(exact, found.indices[rows, 1:])])
        print(f"{options.dataset} {name:8} {features.shape}  {seconds:.1f} CPU s  recall {recall:.4f}", flush=True)


if __name__ == "__main__":
    main()
