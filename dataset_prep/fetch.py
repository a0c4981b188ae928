"""Download the images whose addresses are in Amazon's metadata, politely.

One request at a time, no faster than the given rate; retries after growing pauses; a repeated call resumes. Only http
and https, only images, only up to a size, and never from a private address unless that is allowed: a metadata file
from elsewhere must not make this machine contact the machines beside it.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import random
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from recbole_mambarec_command import __version__
from recbole_mambarec_common.files import atomic_file

from .progress import bar
from .skips import Skips
from .tokens import clean_text, file_stem

_ENDING = {
    "image/jpeg": ".jpg",
    "image/jpg": ".jpg",
    "image/pjpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
}
#: Status codes after which a retry may succeed.
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_AGENT = f"recbole_mambarec/{__version__} (dataset preparation for research)"
_MAX_REDIRECTS = 5
_MAX_PAUSE = 60.0
_FAILED = "failed.tsv"


class _Refused(Exception):
    """There is no image to be had at this address; the message is the reason under which it is counted."""


class _TryLater(Exception):
    """A later request may succeed; ``after`` is the pause in seconds that the server asked for."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


@dataclass
class Fetcher:
    """Requests images one at a time.

    Attributes:
        rate: the most requests per second.
        retries: how often a request is repeated after a failure that may be temporary.
        max_bytes: the largest size of an image.
        timeout: seconds of silence after which a request fails; a whole image may take six times as long.
        allow_private: also connect to addresses that are not public, such as a local mirror.
        sleep: waits for a number of seconds; tests replace it.
    """

    rate: float = 2.0
    retries: int = 4
    max_bytes: int = 10 << 20
    timeout: float = 20.0
    allow_private: bool = False
    sleep: Callable[[float], None] = time.sleep
    _next: float = field(default=0.0, repr=False)

    def get(self, address: str) -> tuple[bytes, str]:
        """(bytes, file ending) of the image at ``address``, after retries.

        Raises:
            _Refused: there is none; the message says why.
        """
        for attempt in range(self.retries + 1):
            try:
                return self._follow(address)
            except _TryLater as later:
                reason = str(later)
                if attempt < self.retries:
                    # twice as long each time, with a random part so that several clients do not retry in step
                    pause = later.after if later.after is not None else 2.0**attempt * random.uniform(0.5, 1.0)
                    self.sleep(min(pause, _MAX_PAUSE))
        raise _Refused(f"{reason}, {self.retries + 1} times")

    def _follow(self, address: str) -> tuple[bytes, str]:
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._ask(address)
            if not isinstance(answer, str):
                return answer
            address = urljoin(address, answer)
        raise _Refused("too many redirects")

    def _ask(self, address: str) -> tuple[bytes, str] | str:
        """The image, or the address to which the server redirects."""
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError:
            raise _Refused("not an address") from None
        if parts.scheme not in ("http", "https"):
            raise _Refused("neither http nor https")
        if not parts.hostname:
            raise _Refused("not an address")
        port = port or (443 if parts.scheme == "https" else 80)
        ip = self._resolve(parts.hostname, port)
        self._wait()
        connection = _Connection(parts.hostname, port, ip, parts.scheme == "https", self.timeout)
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
            "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?") if parts.query else ""
        )
        try:
            connection.request("GET", path, headers={"User-Agent": _AGENT, "Accept": "image/*"})
            return self._read(connection.getresponse())
        except (http.client.InvalidURL, UnicodeError):
            raise _Refused("not an address") from None
        except ssl.SSLCertVerificationError:
            raise _Refused("certificate not valid") from None
        except TimeoutError:
            raise _TryLater("no answer in time") from None
        except (OSError, http.client.HTTPException):
            raise _TryLater("connection failed") from None
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse) -> tuple[bytes, str] | str:
        status = response.status
        if status in (301, 302, 303, 307, 308):
            return response.getheader("Location") or ""
        if status in _LATER:
            after = response.getheader("Retry-After", "")
            raise _TryLater(f"HTTP {status}", float(after) if after.isdecimal() else None)
        if status != 200:
            raise _Refused(f"HTTP {status}")
        kind = response.getheader("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in _ENDING:
            raise _Refused("not an image")
        announced = response.getheader("Content-Length", "")
        if announced.isdecimal() and int(announced) > self.max_bytes:
            raise _Refused("too large")
        parts, size, deadline = [], 0, time.monotonic() + 6 * self.timeout
        while part := response.read1(1 << 16):
            parts.append(part)
            size += len(part)
            if size > self.max_bytes:
                raise _Refused("too large")
            if time.monotonic() > deadline:
                raise _TryLater("no answer in time")
        if not size or (announced.isdecimal() and size != int(announced)):
            raise _TryLater("answer cut short")
        return b"".join(parts), _ENDING[kind]

    def _resolve(self, host: str, port: int) -> str:
        """The IP address of ``host`` to connect to, after checking it; resolving the name again could give another."""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _TryLater("host not found") from None
        names = [str(entry[4][0]) for entry in found]
        addresses = [ipaddress.ip_address(name.partition("%")[0]) for name in names]
        if not self.allow_private:
            # an IPv6 address may carry an IPv4 one
            plain = [getattr(address, "ipv4_mapped", None) or address for address in addresses]
            if not all(address.is_global and not address.is_multicast for address in plain):
                raise _Refused("private address")
        return names[0]

    def _wait(self) -> None:
        now = time.monotonic()
        if now < self._next:
            self.sleep(self._next - now)
        self._next = max(now, self._next) + 1 / self.rate


class _Connection(http.client.HTTPConnection):
    """A connection to one checked IP address, under the name of its host."""

    def __init__(self, host: str, port: int, ip: str, secure: bool, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self.default_port = 443 if secure else 80
        self._ip, self._secure = ip, secure

    def connect(self) -> None:
        self.sock = socket.create_connection((self._ip, self.port), self.timeout)
        if self._secure:
            context = ssl.create_default_context()
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


def fetch_images(
    addresses: dict[str, list[str]],
    folder: str | Path,
    fetcher: Fetcher | None = None,
    *,
    retry_failed: bool = False,
) -> dict[str, int]:
    """Download one image per item into ``folder``, named by the item's id.

    Args:
        addresses: item id -> addresses, the best first; the next one is tried when one fails.
        retry_failed: retry items that failed permanently in an earlier run (listed in ``failed.tsv``).

    Returns:
        outcome -> number of items: ``fetched``, ``there already``, ``without address``, ``failed before`` and the
        reasons of failures.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fetcher = fetcher or Fetcher()
    there = {path.stem for path in folder.iterdir() if path.suffix in _ENDING.values()}
    failed = {} if retry_failed else _read_failed(folder / _FAILED)
    counts: Counter[str] = Counter({"fetched": 0, "there already": 0})
    try:
        with bar("images", len(addresses), "image") as shown:
            for item, places in addresses.items():
                shown.update(1)
                stem = file_stem(item)
                if stem in there:
                    counts["there already"] += 1
                    failed.pop(item, None)
                elif not places:
                    counts["without address"] += 1
                elif item in failed:
                    counts["failed before"] += 1
                elif reason := _fetch_one(stem, places, folder, fetcher):
                    counts[reason] += 1
                    failed[item] = reason
                else:
                    counts["fetched"] += 1
    finally:
        _write_failed(folder / _FAILED, failed)
    return dict(counts)


def _fetch_one(stem: str, places: Iterable[str], folder: Path, fetcher: Fetcher) -> str | None:
    """None if an image was saved, otherwise the reason why the last address failed."""
    reason = None
    for place in places:
        try:
            content, ending = fetcher.get(place)
        except _Refused as refused:
            reason = str(refused)
            continue
        with atomic_file(folder / f"{stem}{ending}") as temporary:
            temporary.write_bytes(content)
        return None
    return reason


def _read_failed(path: Path) -> dict[str, str]:
    failed = {}
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        for line in path.read_text(encoding="utf-8").splitlines():
            item, tab, reason = line.partition("\t")
            # temporary failures (such as no network) are retried
            if tab and not reason.endswith("times"):
                failed[item] = reason
    return failed


def _write_failed(path: Path, failed: dict[str, str]) -> None:
    if not failed:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as temporary:
        lines = [f"{item}\t{clean_text(reason)}\n" for item, reason in sorted(failed.items())]
        temporary.write_text("".join(lines), encoding="utf-8")


def addresses_of(
    metadata: str | Path, item_ids: Iterable[str], version: str | None = None, max_bad: float = 0.01
) -> dict[str, list[str]]:
    """Item id -> image addresses in Amazon metadata, in the order of ``item_ids``; [] for items without any.

    Raises:
        UserError: the file is not metadata of a known version, too much of it is unusable, or it describes other items.
    """
    from .readers import amazon
    from .readers.items import Catalogue, read_matching_items

    path, wanted = Path(metadata), list(item_ids)
    module = amazon.named(version) if version is not None else amazon.recognise_metadata(path)

    def read(ids: set[str], skips: Skips) -> Catalogue:
        return amazon.read_metadata(path, module, ids, skips)

    catalogue, _ = read_matching_items(read, wanted, path, max_bad)
    return {item: found.image_urls if (found := catalogue.items.get(item)) else [] for item in wanted}
