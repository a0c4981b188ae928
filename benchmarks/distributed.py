"""What a step costs when several processes of one machine share its batch.

    python -m benchmarks.distributed [--models=MambaRec,...] [--processes=2] [--steps=5]

Random data of Amazon Baby's size, batch 2048, one thread per process, the trainer's own steps, gloo. Per model: CPU
seconds of a step in one process, with the whole batch and with a process's share of it, and in each of the processes
that share it, all of RecBole's synchronisation included; and the megabytes of gradients that every process exchanges.
The best possible speed-up is the first number over the third. CPU seconds, unlike the time on a clock, are the same
whatever else the machine does.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.step import Sizes, draw
from recbole_mambarec.testing.data import batch, model_config


class _Timed(list):
    """Batches like those of a loader; records the CPU time at which each is requested."""

    shuffle, generator = False, None

    def __init__(self, batches: list) -> None:
        super().__init__(batches)
        self.times: list[float] = []

    def __iter__(self):
        for entry in super().__iter__():
            self.times.append(time.process_time())
            yield entry
        self.times.append(time.process_time())


def step_seconds(name: str, rank: int | None, world: int, part: slice, steps: int, folder: str) -> dict:
    """Median CPU seconds of a step in this process, without the first step, and megabytes of its gradients."""
    from recbole.config import Config
    from recbole.data.interaction import Interaction
    from recbole.utils import get_model, get_trainer

    from recbole_mambarec.config import no_command_line

    dataset, nodes = draw(Sizes())
    torch.manual_seed(0)
    shared = {"checkpoint_dir": folder, "gpu_id": "", "show_progress": False}
    with no_command_line():
        config = Config(name, "ml-100k", config_dict=shared)
    config.final_config_dict.update(model_config(name), model=name)
    if rank is not None:
        config.final_config_dict.update(single_spec=False, local_rank=rank, world_size=world)
    model = get_model(name)(model_config(name), dataset)
    trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
    rows = Interaction({key: value[part] for key, value in batch(*nodes).items()})
    loader = _Timed([rows] * (steps + 1))
    trainer._train_epoch(loader, 0)
    seconds = [later - earlier for earlier, later in zip(loader.times, loader.times[1:])][1:]
    size = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return {"cpu_seconds": statistics.median(seconds), "megabytes": size / 1e6}


def _process(rank: int, name: str, world: int, port: int, steps: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    dist.init_process_group("gloo", rank=rank, world_size=world, init_method=f"tcp://localhost:{port}")
    share = Sizes().batch // world
    measured = step_seconds(name, rank, world, slice(rank * share, (rank + 1) * share), steps, folder)
    Path(folder, f"{rank}.json").write_text(json.dumps(measured), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def measure(name: str, world: int, steps: int) -> dict[str, float]:
    """Measurements of one model."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
        free.close()
        whole, share = (
            step_seconds(name, None, 1, slice(Sizes().batch // divisor), steps, folder) for divisor in (1, world)
        )
        torch.multiprocessing.spawn(_process, args=(name, world, port, steps, folder), nprocs=world)
        together = [json.loads(Path(folder, f"{rank}.json").read_text(encoding="utf-8")) for rank in range(world)]
    slowest = max(result["cpu_seconds"] for result in together)
    return {
        "whole": whole["cpu_seconds"],
        "share": share["cpu_seconds"],
        "together": slowest,
        "speedup": whole["cpu_seconds"] / slowest,
        "megabytes": whole["megabytes"],
    }


def main() -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distributed", description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="MambaRec,MGCN,FREEDOM,LGMRec,VBPR", help="comma-separated names")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | whole batch | its share | together | best speed-up | MB per step |")
    print("|---|---|---|---|---|---|")
    for name in options.models.split(","):
        found = measure(name, options.processes, options.steps)
        seconds = " | ".join(f"{found[key]:.3f} s" for key in ("whole", "share", "together"))
        print(f"| {name} | {seconds} | {found['speedup']:.2f} | {found['megabytes']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
