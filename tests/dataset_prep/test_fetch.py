"""fetch-images against a local server."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dataset_prep import fetch
from dataset_prep.__main__ import main
from dataset_prep.fetch import Fetcher, fetch_images

from . import raw

PICTURE = b"\xff\xd8\xff" + b"picture" * 50


class Server(BaseHTTPRequestHandler):
    """Answers by path; ``seen`` records the requests."""

    seen: list
    times: dict

    def log_message(self, *_):
        pass

    def do_GET(self):
        Server.seen.append((self.path, self.headers["User-Agent"]))
        n = Server.times[self.path] = Server.times.get(self.path, 0) + 1
        kind, _, rest = self.path.strip("/").partition("/")
        if kind == "good":
            self.answer(200, PICTURE)
        elif kind == "flaky" and n < int(rest):
            self.answer(503, b"", {"Retry-After": "7"} if n == 1 else {})
        elif kind == "flaky":
            self.answer(200, PICTURE, kind="image/png; charset=binary")
        elif kind == "code":
            self.answer(int(rest), b"")
        elif kind == "page":
            self.answer(200, b"<html>", kind="text/html")
        elif kind == "large":
            self.answer(200, b"x" * 5000)
        elif kind == "endless":
            self.answer(200, b"x" * 5000, length=False)
        elif kind == "cut":
            self.answer(200, PICTURE, {"Content-Length": str(len(PICTURE) + 10)}, length=False)
        elif kind == "to":
            self.answer(302, b"", {"Location": "/" + rest})
        elif kind == "loop":
            self.answer(302, b"", {"Location": self.path})
        elif kind == "file":
            self.answer(302, b"", {"Location": "file:///etc/passwd"})

    def answer(self, status, body, headers=None, kind="image/jpeg", length=True):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    Server.seen, Server.times = [], {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as instance:
        thread = threading.Thread(target=instance.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{instance.server_port}"
        instance.shutdown()
        thread.join()


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def fetcher(pauses):
    return Fetcher(rate=1e6, retries=3, max_bytes=1000, timeout=5, allow_private=True, sleep=pauses.append)


def test_images_are_saved_by_item(server, fetcher, tmp_path):
    counts = fetch_images({"B1": [f"{server}/good/a b?x=é"], "x/y": [f"{server}/flaky/1"]}, tmp_path, fetcher)
    assert counts == {"fetched": 2, "there already": 0}
    assert {path.name for path in tmp_path.iterdir()} == {"B1.jpg", "x%2Fy.png"}
    assert (tmp_path / "B1.jpg").read_bytes() == PICTURE
    assert Server.seen[0][0] == "/good/a%20b?x=%C3%A9" and Server.seen[0][1].startswith("recbole_mambarec/")


def test_fetching_resumes_where_it_stopped(server, fetcher, tmp_path):
    addresses = {"B1": [f"{server}/good/1"], "B2": [f"{server}/code/404"], "B3": []}
    assert fetch_images(addresses, tmp_path, fetcher) == {
        "fetched": 1,
        "there already": 0,
        "HTTP 404": 1,
        "without address": 1,
    }
    assert (tmp_path / "failed.tsv").read_text() == "B2\tHTTP 404\n"
    asked = len(Server.seen)
    again = fetch_images(addresses, tmp_path, fetcher)
    assert again["there already"] == 1 and again["failed before"] == 1 and len(Server.seen) == asked
    assert fetch_images(addresses, tmp_path, fetcher, retry_failed=True)["HTTP 404"] == 1


def test_retries_with_growing_pauses(server, fetcher, pauses, tmp_path):
    assert fetch_images({"B1": [f"{server}/flaky/4"]}, tmp_path, fetcher)["fetched"] == 1
    pauses = [pause for pause in pauses if pause > 0.01]
    assert pauses[0] == 7 and 1 <= pauses[1] <= 2 <= pauses[2] <= 4  # Retry-After first, then 2 and 4 seconds
    assert Server.times["/flaky/4"] == 4


def test_temporary_failures_are_retried_in_the_next_run(server, fetcher, tmp_path):
    addresses = {"B1": [f"{server}/code/503"]}
    assert fetch_images(addresses, tmp_path, fetcher)["HTTP 503, 4 times"] == 1
    assert Server.times["/code/503"] == 4
    assert fetch_images(addresses, tmp_path, fetcher)["HTTP 503, 4 times"] == 1
    assert Server.times["/code/503"] == 8


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("page", "not an image"),
        ("large", "too large"),
        ("endless", "too large"),
        ("cut", "answer cut short, 4 times"),
        ("loop", "too many redirects"),
        ("file", "neither http nor https"),
        ("code/403", "HTTP 403"),
    ],
)
def test_answers_without_an_image_are_not_saved(server, fetcher, tmp_path, path, reason):
    assert fetch_images({"B1": [f"{server}/{path}"]}, tmp_path, fetcher)[reason] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["failed.tsv"]


def test_the_next_address_is_tried(server, fetcher, tmp_path):
    addresses = {"B1": [f"{server}/code/404", f"{server}/to/good/1"]}
    assert fetch_images(addresses, tmp_path, fetcher)["fetched"] == 1


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/x.jpg",
        "http://localhost/x.jpg",
        "http://10.0.0.1/x.jpg",
        "http://192.168.1.1/x.jpg",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/x.jpg",
        "http://[::ffff:127.0.0.1]/x.jpg",
        "http://0.0.0.0/x.jpg",
        "http://2130706433/x.jpg",
    ],
)
def test_private_addresses_are_not_contacted(address, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("a connection was opened"))
    counts = fetch_images({"B1": [address]}, tmp_path, Fetcher(rate=1e6, retries=0, sleep=lambda _: None))
    assert counts.get("private address") == 1 or counts.get("host not found, 1 times") == 1


def test_redirect_to_a_private_address_is_refused(server, tmp_path, monkeypatch):
    """The first host looks public and redirects to one that is not."""
    port = server.rpartition(":")[2]
    real = Fetcher._resolve
    monkeypatch.setattr(
        Fetcher,
        "_resolve",
        lambda self, host, port: "127.0.0.1" if host == "public.example" else real(self, host, port),
    )
    fetcher = Fetcher(rate=1e6, retries=0, sleep=lambda _: None)
    monkeypatch.setitem(Server.times, "x", 0)
    address = f"http://public.example:{port}/to//127.0.0.1:{port}/good/1"
    assert fetch_images({"B1": [address]}, tmp_path, fetcher) == {
        "fetched": 0,
        "there already": 0,
        "private address": 1,
    }


@pytest.mark.parametrize("address", ["ftp://host/x", "http://", "http://[", "http://h:99999/x", "http://a\nb/x", "x"])
def test_invalid_addresses_are_counted(address, tmp_path):
    counts = fetch_images({"B1": [address]}, tmp_path, Fetcher(rate=1e6, retries=0, sleep=lambda _: None))
    assert counts["fetched"] == 0 and sum(counts.values()) == 1


def test_rate_is_kept(server, tmp_path, monkeypatch):
    clock = [0.0]
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(fetch.time, "monotonic", lambda: clock[0])
    fetcher = Fetcher(rate=4, allow_private=True, sleep=sleep)
    fetch_images({f"B{n}": [f"{server}/good/{n}"] for n in range(5)}, tmp_path, fetcher)
    assert waits == [0.25] * 4


def test_command(server, tmp_path, monkeypatch, capsys):
    pytest.importorskip("polars")
    monkeypatch.setattr(raw, "metadata", lambda version, n: {**original("2018", n), "imageURL": [f"{server}/good/{n}"]})
    reviews, meta = raw.write_category(tmp_path / "raw", "2018")
    out = ["--name", "tiny", "--out", str(tmp_path / "out")]
    main(["amazon", "--reviews", str(reviews), "--meta", str(meta), *out])
    words = [
        "fetch-images",
        "--meta",
        str(meta),
        "--dataset",
        str(tmp_path / "out" / "tiny"),
        "--rate",
        "1000",
    ]
    assert main([*words, "--images", str(tmp_path / "images"), "--allow-private"]) == 0
    assert "fetched: 16\n" in capsys.readouterr().out
    assert main([*words, "--images", str(tmp_path / "others")]) == 0
    assert "private address: 16\n" in capsys.readouterr().out
    assert len(list((tmp_path / "images").glob("*.jpg"))) == 16


original = raw.metadata
