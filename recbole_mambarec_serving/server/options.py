"""What a server permits: limits, token, names under which it may be called."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from recbole_mambarec_common.errors import UserError, one_line

#: a token of fewer characters could be guessed
LEAST_TOKEN = 16
#: characters of an id in a request; one that is longer is none of the bundle's
LONGEST_ID = 1000
#: the addresses of this machine that no other machine can reach
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Options:
    """The settings of a server.

    Attributes:
        token: what a request has to show; None: nothing, and only requests to this machine's own names are answered.
        max_k: the longest list that one request may ask for.
        max_batch: the most users or items that one request may name.
        max_body: the most bytes of a request's body.
        timeout: seconds until a request is given up, for reading its body and for computing the answer.
        threads: requests that are computed at the same time.
        waiting: further requests that wait for a thread; those beyond are refused at once.
        image_hosts: ``https://host`` from which the page may show images that are not in the bundle.
        hosts: names under which a server without a token may be called, without ports.
    """

    token: bytes | None = None
    max_k: int = 1000
    max_batch: int = 1000
    max_body: int = 1 << 20
    timeout: float = 10.0
    threads: int = 2
    waiting: int = 256
    image_hosts: tuple[str, ...] = ()
    hosts: tuple[str, ...] = LOOPBACK_NAMES


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_token(path: str) -> bytes:
    """The token in a file: one line without blanks.

    Raises:
        UserError: the file cannot be read, or what it holds is no token.
    """
    advice = "write one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise UserError(f"--token-file {path} cannot be read ({one_line(error)}): {advice}") from None
    except UnicodeDecodeError:
        raise UserError(f"--token-file {path} has other characters than ASCII: {advice}") from None
    if len(text) < LEAST_TOKEN or not re.fullmatch(r"[!-~]+", text):
        raise UserError(
            f"--token-file {path} has to hold one line of at least {LEAST_TOKEN} characters without blanks: {advice}"
        )
    return text.encode()


def is_readable_by_others(path: str) -> bool:
    """Whether other users of this machine may read a file."""
    return os.name == "posix" and bool(Path(path).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def image_host(text: str) -> str:
    """``https://host[:port]`` of an argument, as a browser's rules name it.

    Raises:
        UserError: it is something else.
    """
    if not re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?/?", text):
        raise UserError(f"--image-host={text} is no origin of images: give one such as https://images.example.com")
    return text.rstrip("/").lower()
