"""A server in a thread of this process, or in a process of its own, and what it answers."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn

from recbole_mambarec_serving.recommender import Recommender
from recbole_mambarec_serving.server.app import create_app
from recbole_mambarec_serving.server.options import Options
from recbole_mambarec_serving.server.swap import Bundles

ROOT = Path(__file__).resolve().parents[2]
_AS_IT_IS = Options()


class Answer(NamedTuple):
    """Status, headers (lower case) and body of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """Where a server listens."""

    def __init__(self, port: int, app: Any = None, process: subprocess.Popen | None = None) -> None:
        self.port, self.app, self.process = port, app, process

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Answer:
        """Ask for a path; a body is JSON, bytes are sent as they are. Names of headers have underscores for dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None:
                sent.setdefault("Content-Type", "application/json")
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method or ("GET" if body is None else "POST"), path, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def send(self, data: bytes) -> bytes:
        """Send what a well-behaved client would not; what comes back until the server ends the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def running(
    bundle: Path, options: Options = _AS_IT_IS, load: Any = Recommender.load, poll: float = 60
) -> Iterator[Server]:
    """A server of this process; ``server.app.bundles`` looks for a new bundle."""
    bundles = Bundles(bundle, load, poll)
    app = create_app(bundles, options)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=5)
    )
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        app.bundles = bundles
        yield Server(listening.getsockname()[1], app)
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def started(
    bundle: Path, *arguments: str, log: Path, command: list[str] | None = None, path: Path = ROOT
) -> Iterator[Server]:
    """``recbole-mambarec serve`` in a process of its own, which is told to stop at the end.

    Args:
        log: a file for what it writes.
        command: another one that serves.
        path: a folder from which modules are imported before all others.
    """
    command = command or [sys.executable, "-m", "recbole_mambarec", "serve", str(bundle), "--port=0", *arguments]
    places = [str(path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    with open(log, "wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=path, env=environment)
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            time.sleep(0.02)
        yield Server(int(found[1]), process=process)
    finally:
        process.terminate()
        process.wait(60)
