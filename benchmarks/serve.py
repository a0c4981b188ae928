"""Requests per second, latency and memory of ``recbole-mambarec serve``, beside Cornac's server.

    python -m benchmarks.serve [--items 7000,200000] [--cornac PYTHON] [--k 20] [--seconds 10] [--swap]

For each number of items a bundle of random embeddings is written and served by a process of its own on the loopback
interface. A second process asks for the lists of random users without what they have seen: over 1 connection, and over
as many as ``--connections`` says, each of which waits for an answer before it asks again. Its own work is on another
core, but with two cores the two share caches and whatever else runs. ``--cornac`` names a Python with cornac and flask
(and gunicorn, which is then measured, too): there, BPR of the same size is trained for one epoch and served as Cornac's
documentation says. ``--swap`` replaces the bundle all the while and counts failed requests. The last line is JSON.
"""

from __future__ import annotations

if not __package__:
    import by_path

    by_path.run()

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import psutil
import scipy.sparse as sp

from recbole_mambarec.errors import run_main
from recbole_mambarec_common.terminal import table

# interactions of a user, as in Amazon Baby
_HISTORY = 8
_CORNAC = """
import sys, numpy as np, cornac
folder, n_users, n_items, width, history = sys.argv[1], *map(int, sys.argv[2:])
draw = np.random.default_rng(0)
users = np.concatenate([np.arange(n_users).repeat(history), draw.integers(0, n_users, n_items)])
items = np.concatenate([draw.integers(0, n_items, n_users * history), np.arange(n_items)])
pairs = np.unique(np.stack([users, items], 1), axis=0)
data = cornac.data.Dataset.build([(f"u{u}", f"i{i}", 1.0) for u, i in pairs.tolist()], fmt="UIR", seed=0)
model = cornac.models.BPR(k=width, max_iter=1, seed=0, verbose=False, num_threads=1).fit(data)
model.save(folder, save_trainset=True)
print(len(data.uid_map), len(data.iid_map))
"""


def write(folder: Path, n_users: int, n_items: int, width: int, seed: int = 0) -> Path:
    """A bundle of random embeddings, with titles."""
    from recbole_mambarec_serving.bundle import write_bundle
    from recbole_mambarec_serving.catalogue import Catalogue
    from recbole_mambarec_serving.ids import Ids
    from recbole_mambarec_serving.recommender import Recommender
    from recbole_mambarec_serving.scoring import FoldIn, InnerProducts

    draw = np.random.default_rng(seed)
    items = draw.integers(0, n_items, n_users * _HISTORY)
    pairs = sp.csr_array((np.ones(len(items)), (np.arange(n_users).repeat(_HISTORY), items)), shape=(n_users, n_items))
    seen = sp.csr_array((np.ones(pairs.nnz, np.uint8), pairs.indices, pairs.indptr), shape=pairs.shape)
    embeddings = draw.normal(size=(n_users + n_items, width)).astype(np.float32)
    fold_in = FoldIn(np.ones((2 * width, width), np.float32), np.zeros(width, np.float32), np.ones(n_items, np.float32))
    catalogue = Catalogue(
        Ids("item", [f"i{n}" for n in range(n_items)]),
        [f"The title of item number {n}" for n in range(n_items)],
        None,
        np.bincount(items, minlength=n_items),
    )
    scoring = InnerProducts(embeddings[:n_users], embeddings[n_users:], fold_in)
    users = Ids("user", [f"u{n}" for n in range(n_users)])
    return write_bundle(folder, Recommender(f"random {seed}", scoring, users, catalogue, seen), {}, "")


# ------------------------------------------------------------------------------------------------------------
# servers


@contextmanager
def serving(command: list[str], ready: str, **variables: str) -> Iterator[tuple[str, int, subprocess.Popen]]:
    """A server in a process of its own: host, port, process.

    Args:
        ready: pattern of the line that says it listens, with groups for host and port.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **variables})
        try:
            deadline = time.monotonic() + 120
            while not (found := re.search(ready, _read(log))):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(command)} does not serve:\n{_read(log)}")
                time.sleep(0.1)
            yield found[1], int(found[2]), process
        finally:
            process.terminate()
            process.wait()


def _read(log) -> str:
    log.seek(0)
    return log.read()


def ours(bundle: Path) -> list[str]:
    """The command that serves a bundle on a free port."""
    return [sys.executable, "-m", "recbole_mambarec", "serve", str(bundle), "--port=0", "--poll=0.2"]


# ------------------------------------------------------------------------------------------------------------
# clients


def _ask(host: str, port: int, paths: list[str], connections: int, seconds: float, answers) -> None:
    async def client(number: int, until: float, times: list[float], faults: list[str]) -> None:
        draw = np.random.default_rng(number)
        reader = writer = None
        while time.perf_counter() < until:
            path = paths[draw.integers(len(paths))]
            started = time.perf_counter()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(host, port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
                if not re.match(rb"http/1\.\d 200", head):
                    faults.append(head.split(b"\r\n")[0].decode())
                if head.startswith(b"http/1.0") or b"connection: close" in head:
                    writer.close()
                    writer = None
            except (OSError, asyncio.IncompleteReadError) as error:
                faults.append(type(error).__name__)
                writer = None
            times.append(time.perf_counter() - started)

    async def clients() -> tuple[list[float], list[str], float, int]:
        times: list[float] = []
        faults: list[str] = []
        # the first answers make what later ones have
        warm: list[float] = []
        await client(connections, time.perf_counter() + min(1.0, seconds / 4), warm, [])
        started = time.perf_counter()
        await asyncio.gather(*(client(n, started + seconds, times, faults) for n in range(connections)))
        return times, faults, time.perf_counter() - started, len(warm)

    answers.put(asyncio.run(clients()))


def load(host: str, port: int, paths: list[str], connections: int, seconds: float) -> dict:
    """Ask from a process of its own."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_ask, args=(host, port, paths, connections, seconds, answers))
    process.start()
    times, faults, took, warm = answers.get()
    process.join()
    p50, p95, p99 = (1000 * np.percentile(times, [50, 95, 99])).round(2).tolist()
    return {
        "connections": connections,
        "requests": len(times),
        "warm": warm,
        "failed": len(faults),
        "requests/s": round(len(times) / took, 1),
        "p50 ms": p50,
        "p95 ms": p95,
        "p99 ms": p99,
        "faults": sorted(set(faults)),
    }


def loaded(host: str, port: int, paths: list[str], connections: int, seconds: float, process: subprocess.Popen) -> dict:
    """Load a server: what its clients saw, its CPU time per request and its resident memory in MB.

    Processes that it has started are included. CPU time varies less than the time of an answer where other work runs.
    """
    top = psutil.Process(process.pid)
    whole = [top, *top.children(recursive=True)]

    def used() -> float:
        return sum(each.cpu_times().user + each.cpu_times().system for each in whole)

    before = used()
    found = load(host, port, paths, connections, seconds)
    # the requests that warm it up, which are not counted elsewhere, are among those that it has answered
    found["CPU ms"] = round(1000 * (used() - before) / (found["requests"] + found.pop("warm")), 2)
    return {**found, "memory MB": round(sum(each.memory_info().rss for each in whole) / 1e6)}


# ------------------------------------------------------------------------------------------------------------


def measure(
    name: str, n_items: int, command: list[str], ready: str, paths: list[str], given, **variables
) -> list[dict]:
    """Start a server and load it with each number of connections."""
    found = []
    with serving(command, ready, **variables) as (host, port, process):
        for connections in given.connections:
            line = loaded(host, port, paths, connections, given.seconds, process)
            found.append({"server": name, "items": n_items, **line})
            print("  ".join(f"{key} {value}" for key, value in found[-1].items()), flush=True)
    return found


def swaps(folder: Path, n_items: int, paths: list[str], given) -> dict:
    """Load the server while its bundle is replaced again and again."""
    bundles = [write(folder / f"swap-{n}", given.users, n_items, given.width, seed=n) for n in range(2)]
    link, count, stop = folder / "current", 0, threading.Event()
    link.symlink_to(bundles[0])

    def replace() -> None:
        nonlocal count
        while not stop.wait(1.0):
            new = folder / "new"
            new.symlink_to(bundles[(count + 1) % 2])
            os.replace(new, link)
            count += 1

    with serving(ours(link), _OURS) as (host, port, process):
        thread = threading.Thread(target=replace)
        thread.start()
        try:
            line = loaded(host, port, paths, given.connections[-1], given.seconds, process)
        finally:
            stop.set()
            thread.join()
        return {
            "server": "ours, swapped",
            "items": n_items,
            "links replaced": count,
            **line,
        }


_OURS = r"http://([\d.]+):(\d+)"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    numbers: Callable[[str], list[int]] = lambda text: [*map(int, text.split(","))]  # noqa: E731
    add = parser.add_argument
    add("--items", type=numbers, default=[7_000, 200_000])
    add("--users", type=int, default=20_000)
    add("--width", type=int, default=64)
    add("--k", type=int, default=20)
    add("--connections", type=numbers, default=[1, 16])
    add("--seconds", type=float, default=10.0, help="of each measurement")
    add("--cornac", metavar="PYTHON", help="a Python with cornac and flask")
    add("--swap", action="store_true", help="also while the bundle is replaced once a second")
    given = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    rows = []
    for n_items in given.items:
        folder = Path(tempfile.mkdtemp(prefix="serve-"))
        try:
            bundle = write(folder / "bundle", given.users, n_items, given.width)
            paths = [f"/recommend/{quote(f'u{n}')}?k={given.k}" for n in range(given.users)]
            rows += measure("ours", n_items, ours(bundle), _OURS, paths, given)
            if given.swap:
                rows.append(swaps(folder, n_items, paths, given))
            if given.cornac:
                rows += cornac(folder, n_items, given)
        finally:
            shutil.rmtree(folder)
    columns = [
        "server",
        "items",
        "connections",
        "requests/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "CPU ms",
        "failed",
        "memory MB",
    ]
    print(table(columns, [[str(row.get(column, "")) for column in columns] for row in rows]))
    print(json.dumps(rows))


def cornac(folder: Path, n_items: int, given) -> list[dict]:
    """The same load on Cornac's server."""
    saved = folder / "cornac"
    sizes = map(str, (given.users, n_items, given.width, _HISTORY))
    subprocess.run([given.cornac, "-c", _CORNAC, str(saved), *sizes], check=True, stdout=subprocess.DEVNULL)
    (model,) = (path for path in saved.rglob("*.pkl"))
    settings = {
        "FLASK_APP": "cornac.serving.app",
        "MODEL_PATH": str(model.parent),
        "MODEL_CLASS": "cornac.models.BPR",
        "OMP_NUM_THREADS": "1",
    }
    paths = [f"/recommend?uid=u{n}&k={given.k}&remove_seen=true" for n in range(given.users)]
    command = [given.cornac, "-m", "flask", "run", "--host=127.0.0.1", "--port=8765"]
    rows = measure("Cornac, flask run", n_items, command, r"http://([\d.]+):(\d+)", paths, given, **settings)
    has_gunicorn = subprocess.run([given.cornac, "-c", "import gunicorn"], check=False, stderr=subprocess.DEVNULL)
    if has_gunicorn.returncode == 0:
        command = [given.cornac, "-m", "gunicorn", "--bind=127.0.0.1:8766", "--threads=2", "cornac.serving.app:app"]
        rows += measure("Cornac, gunicorn", n_items, command, r"http://([\d.]+):(\d+)", paths, given, **settings)
    return rows


if __name__ == "__main__":
    run_main(main)
