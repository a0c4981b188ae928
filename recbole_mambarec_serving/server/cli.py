"""Command line of ``recbole-mambarec serve``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from recbole_mambarec_command.command_line import example
from recbole_mambarec_common.errors import UserError, one_line
from recbole_mambarec_common.extras import need

log = logging.getLogger("recbole_mambarec.serve")


def main(argv: list[str] | None = None, prog: str = "python -m recbole_mambarec serve") -> int:
    """Serve a bundle until the process is told to stop (SIGTERM, Ctrl-C), which answers what has been asked.

    Raises:
        UserError: there is no bundle, the address cannot be used or would be open to others, or an optional package is
            missing.
    """
    given = _parser(prog).parse_args(sys.argv[1:] if argv is None else argv)
    # one thread per product: several requests are computed at once anyhow; numpy reads this when it is imported
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    options = _options(given)
    listening = _listen(given.host, given.port)
    with listening:
        _serve(given, options, listening)
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Answer requests for recommendations over HTTP, and show a page for people to look at them.",
        epilog=f"Example: {example(prog)} bundle --port 8000, then http://127.0.0.1:8000 in a browser. A new bundle "
        "at the same path is served without a failed request: see docs/serve.md.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("bundle", help="folder that recbole-mambarec export has written, or a symbolic link to one")
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s, this machine alone)")
    add("--port", type=_between(0, 65535), default=8000, help="port (default %(default)s; 0: a free one)")
    add("--token-file", help="file with the token that requests have to show; needed for any other address")
    add("--image-host", action="append", default=[], metavar="ORIGIN", help="show images from https://HOST on the page")
    add("--max-k", type=_between(1), default=1000, help="the longest list (default %(default)s)")
    add("--max-batch", type=_between(1), default=1000, help="users or items in one request (default %(default)s)")
    add("--max-body", type=_between(1), default=1 << 20, metavar="BYTES", help="of a request (default %(default)s)")
    add("--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="for an answer (default %(default)s)")
    add("--threads", type=_between(1), help="requests computed at the same time (default: the number of cores)")
    add("--poll", type=_seconds, default=2.0, metavar="SECONDS", help="between looks for a new bundle (default 2)")
    add("--access-log", action="store_true", help="a line for each request, which names users")
    return parser


def _options(given: argparse.Namespace) -> Any:
    need("fastapi", "serve")
    need("uvicorn", "serve")
    need("prometheus_client", "serve")
    from recbole_mambarec_serving.server.options import (
        Options,
        image_host,
        is_loopback,
        is_readable_by_others,
        read_token,
    )

    if given.token_file is None and not is_loopback(given.host):
        raise UserError(
            f"--host {given.host} lets other machines in, which needs a token: name a file with one (--token-file), or "
            "leave --host out"
        )
    if given.token_file is not None and Path(given.token_file).exists() and is_readable_by_others(given.token_file):
        print(f"warning: other users of this machine can read {given.token_file}: chmod 600 it", file=sys.stderr)
    return Options(
        token=None if given.token_file is None else read_token(given.token_file),
        max_k=given.max_k,
        max_batch=given.max_batch,
        max_body=given.max_body,
        timeout=given.timeout,
        threads=given.threads or os.cpu_count() or 2,
        image_hosts=tuple(map(image_host, given.image_host)),
    )


def _listen(host: str, port: int) -> socket.socket:
    """A socket on an address."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        *kind, _, address = found[0]
        # with its protocol, or asyncio would leave Nagle's algorithm on, which costs 40 ms per answer
        listening = socket.socket(*kind)
    except OSError as error:
        raise UserError(f"cannot listen on --host {host}: {one_line(error)}") from None
    try:
        if os.name == "posix":
            # or a server that has just stopped would keep its port for a minute; on Windows it would share it
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise UserError(f"cannot listen on {host}, port {port} ({one_line(error)}): try another --port") from None
    return listening


def _serve(given: argparse.Namespace, options: Any, listening: socket.socket) -> None:
    import uvicorn

    from recbole_mambarec_serving import Recommender
    from recbole_mambarec_serving.server.app import create_app
    from recbole_mambarec_serving.server.swap import Bundles, describe

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # uvicorn's own lines about its start say what those here say
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    bundles = Bundles(given.bundle, Recommender.load, given.poll)
    config = uvicorn.Config(
        create_app(bundles, options),
        log_config=None,
        access_log=given.access_log,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=int(given.timeout) + 5,
    )
    server = uvicorn.Server(config)

    def stop(*_: Any) -> None:
        server.should_exit = True

    # before uvicorn has handlers of its own; it raises the signal again once it has stopped, which then does nothing,
    # so that the status is 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: bundles.ask())
    # from here on, whoever reads the line below can connect
    listening.listen(2048)
    host, port = listening.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    log.info("serving %s on http://%s:%d (Ctrl-C ends it)", describe(bundles.current), name, port)
    server.run(sockets=[listening])
    log.info("stopped")


def _between(least: int, most: int | None = None) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            allowed = f"at least {least}" if most is None else f"between {least} and {most}"
            raise argparse.ArgumentTypeError(f"{value} is not {allowed}")
        return value

    number.__name__ = "whole number"
    return number


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value
