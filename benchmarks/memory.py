"""Peak memory: of a process, and of the tensors of a training step.

    python -m benchmarks.memory

prints, for every model, the float32 arrays of users, items and edges that a step holds (in any case, per modality),
from which the models' ``step_memory`` is written, and how far off the estimate made with that is. Nothing is timed: it
can run beside other work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch


def tensor_peak(work: Callable[[], object]) -> int:
    """Bytes of CPU tensors that ``work`` holds at its peak beyond what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    sizes = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return int(max(np.cumsum([0, *sizes])))


def step_peak(model: torch.nn.Module, rows: dict[str, torch.Tensor]) -> int:
    """Bytes that training a model with Adam holds at its peak: parameters, the copy of the best epoch, two steps."""
    optimizer = torch.optim.Adam([p for p in model.train().parameters() if p.requires_grad], fused=True)
    model.pre_epoch(0)

    def steps() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            sum(model.calculate_loss(rows)).backward()
            optimizer.step()

    own = sum(x.numel() * x.element_size() for x in [*model.parameters(), *model.state_dict().values()])
    return tensor_peak(steps) + own


def _measure(name: str, n_users: int, n_items: int, n_pairs: int, modalities: int, freeze: bool) -> tuple[int, int]:
    """(measured, estimated) bytes of a step on random data."""
    from recbole.utils import get_model

    from recbole_mambarec.memory import need
    from tests.helpers import InMemoryDataset, batch, model_config

    rng = np.random.default_rng(0)
    widths = {"image": 512, "text": 384}
    features = {m: rng.normal(size=(n_items, widths[m])).astype(np.float32) for m in list(widths)[:modalities]}
    users, items = rng.integers(0, n_users, n_pairs), rng.integers(0, n_items, n_pairs)
    dataset = InMemoryDataset(users, items, n_users, n_items, features, on_disk=True)
    config = model_config(name, freeze_features=freeze, train_batch_size=64)
    torch.manual_seed(0)
    model = get_model(name)(config, dataset)
    rows = batch(users[:64], items[:64], rng.integers(0, n_items, 64))
    estimate = need(model.memory_of(config), config, model.data)
    return step_peak(model, rows), estimate.features + estimate.step


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0]).parse_args()
    from recbole_mambarec import registry

    print(f"{'model':10} users          items          edges          estimate / measured")
    shapes = [(6000, 2000, 30_000), (6000, 2000, 60_000), (3000, 3000, 30_000), (6000, 3000, 40_000)]
    for name in registry.names():
        # coefficients of users, items, edges, each in any case and for each modality
        rows = [np.ravel([[n, n * m] for n in shape]) * 64 * 4 for shape in shapes for m in (1, 2)]
        frozen = [_measure(name, *shape, m, True) for shape in shapes for m in (1, 2)]
        found, *_ = np.linalg.lstsq(np.array(rows), np.array([measured for measured, _ in frozen]), rcond=None)
        trained = [_measure(name, *shape, m, False) for shape in shapes[1:3] for m in (1, 2)]
        shares = [estimate / measured for measured, estimate in frozen + trained]
        arrays = "  ".join(f"({a:5.1f}, {b:4.1f})" for a, b in found.reshape(3, 2))
        print(f"{name:10} {arrays}  {min(shares):.2f} to {max(shares):.2f}", flush=True)


if __name__ == "__main__":
    main()
