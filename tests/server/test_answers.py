"""What the server answers: the recommender's lists, by any id; and one sentence where it has none."""

import http.client
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import quote

import numpy as np
import pytest

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_serving.recommender import Recommender
from recbole_mambarec_serving.server.options import Options
from tests.server.bundles import ODD_TITLE, ODD_USERS
from tests.server.running import running


@pytest.fixture(scope="module")
def recommender(bundle):
    return Recommender.load(bundle)


def listed(recommendations):
    return [{"item": each.item, "score": each.score, "title": each.title} for each in recommendations]


def sentence(answer, status):
    """The sentence of an answer that is none."""
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    text = answer.json["error"]
    assert text and "\n" not in text and "Traceback" not in text
    return text


# ------------------------------------------------------------------------------------------------------------
# lists


@pytest.mark.parametrize("user", [*ODD_USERS, "u3"])
def test_a_list_by_any_id(server, recommender, user):
    expected = {"user": user, "recommendations": listed(recommender.recommend(user, k=5))}
    assert server.ask(f"/recommend/{quote(user, safe='')}?k=5").json == expected
    # slashes may be left as they are
    assert server.ask(f"/recommend/{quote(user)}?k=5").json == expected
    several = server.ask("/recommend", {"users": [user, "u1"], "k": 5}).json
    lists = recommender.recommend([user, "u1"], k=5)  # whose last digits are those of one product for both
    assert several == {"results": [{"user": u, "recommendations": listed(r)} for u, r in lists], "unknown": []}


@pytest.mark.parametrize("item", [*ODD_USERS, "i3"])
def test_items_by_any_id(server, recommender, item):
    similar = server.ask(f"/similar/{quote(item, safe='')}?k=4").json
    assert similar == {"item": item, "by": "model", "similar": listed(recommender.similar_items(item, 4))}
    info = server.ask(f"/items/{quote(item, safe='')}").json
    assert info["id"] == item and info["title"] == recommender.item(item).title
    assert info["popularity"] == recommender.item(item).popularity
    assert server.ask("/items", {"items": [item]}).json == {"items": [info]}


def test_options_of_lists(server, recommender):
    everything = server.ask("/recommend/u2?k=30&exclude_seen=false").json["recommendations"]
    assert everything == listed(recommender.recommend("u2", k=30, exclude_seen=False))
    assert everything != listed(recommender.recommend("u2", k=30))
    among = ["i3", "i4", "i5"]
    few = server.ask("/recommend", {"users": ["u2"], "among": among, "exclude_seen": False}).json["results"][0]
    assert sorted(each["item"] for each in few["recommendations"]) == among
    assert len(server.ask("/recommend/u2").json["recommendations"]) == 20
    assert (
        server.ask("/recommend", {"users": ["u2"], "k": 3.0}).json
        == server.ask("/recommend", {"users": ["u2"], "k": 3}).json
    )


def test_users_who_are_unknown_are_named_and_the_others_served(server):
    answer = server.ask("/recommend", {"users": ["nobody", "u1", "u1"]}).json
    assert [each["user"] for each in answer["results"]] == ["u1", "u1"] and answer["unknown"] == ["nobody"]
    assert server.ask("/recommend", {"users": ["nobody"]}).json == {"results": [], "unknown": ["nobody"]}


def test_somebody_new(server, recommender):
    answer = server.ask("/recommend-for", {"items": ["i1", "a/b"], "k": 6}).json
    assert answer == {"items": ["i1", "a/b"], "recommendations": listed(recommender.recommend_for(["i1", "a/b"], k=6))}
    assert not {"i1", "a/b"} & {each["item"] for each in answer["recommendations"]}


def test_search(server):
    found = server.ask("/search/items?q=onerror").json["items"]
    assert [(each["id"], each["title"]) for each in found] == [("a/b", ODD_TITLE)]
    assert found[0]["image"] == "https://images.example.com/0.png"
    assert "u7" in server.ask("/search/users?q=u7").json["users"]
    assert server.ask(f"/search/users?q={quote('日本')}").json["users"] == ["日本/語"]
    assert len(server.ask("/search/users?q=u&limit=3").json["users"]) == 3
    assert server.ask("/search/items?q=no+such").json == {"items": []}


def test_health_and_metrics(server):
    health = server.ask("/health").json
    assert health["status"] == "ok" and health["fault"] is None
    assert (health["bundle"]["name"], health["bundle"]["users"], health["bundle"]["items"]) == ("Made", 40, 60)
    server.ask("/recommend/" + quote('quoted"\n'))
    answer = server.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    assert "recbole_mambarec_bundle_items 60.0" in lines
    assert any(
        line.startswith('recbole_mambarec_requests_total{method="GET",route="/health",status="200"}') for line in lines
    )
    # ids are no labels: there would be a time series for each
    assert not any("quoted" in line for line in lines)


# ------------------------------------------------------------------------------------------------------------
# no list


def test_unknown_ids(server):
    assert "'nobody'" in sentence(server.ask("/recommend/nobody"), 404)
    for answer in (
        server.ask("/similar/nothing"),
        server.ask("/items/nothing"),
        server.ask("/items", {"items": ["i1", "nothing"]}),
        server.ask("/recommend-for", {"items": ["nothing"]}),
        server.ask("/recommend", {"users": ["u1"], "among": ["nothing"]}),
    ):
        assert "'nothing'" in sentence(answer, 404)
    assert "GET /docs" in sentence(server.ask("/recommendations"), 404)
    assert sentence(server.ask("/recommend/"), 404)
    answer = server.ask("/health", b"{}")
    assert sentence(answer, 405) and answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/recommend/u1?k=0", None, "k: "),
        ("/recommend/u1?k=31", None, "k: input should be less than or equal to 30"),
        ("/recommend/u1?k=ten", None, "k: "),
        ("/recommend/u1?k=" + "9" * 5000, None, "k: "),
        ("/recommend/" + "x" * 1001, None, "user: "),
        ("/similar/i1?by=colour", None, "'colour'"),
        ("/search/items", None, "q: field required"),
        ("/search/items?q=a&limit=101", None, "limit: "),
        ("/recommend", {"users": []}, "users: "),
        ("/recommend", {"users": ["u1"] * 21}, "users: list should have at most 20 items"),
        ("/recommend", {"users": ["u1"], "k": 31}, "k: "),
        ("/recommend", {"users": ["u1"], "k": True}, "k: "),
        ("/recommend", {"users": ["u1"], "k": 2.5}, "k: "),
        ("/recommend", {"users": ["u1"], "k": float("inf")}, "k: "),
        ("/recommend", {"users": "u1"}, "users: "),
        ("/recommend", {"users": ["u1"], "top": 3}, "top: "),
        ("/recommend", [], "the body: "),
        ("/recommend", b"", "the body: "),
        ("/recommend", b'{"users": ["u1"', "the body is no JSON"),
        ("/recommend", b'{"users": ["\\ud800"]}', "users.0: "),
        ("/recommend-for", {"items": ["i1"], "k": None}, "k: "),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_that_are_not_allowed(server, path, body, words):
    assert words in sentence(server.ask(path, body), 422)


def test_more_than_the_catalogue(bundle):
    with running(bundle) as server:
        assert "60" in sentence(server.ask("/recommend/u1?k=61"), 422)


@pytest.mark.parametrize("body", [b"\xff{", b"[" * 1500, b'{"k": ' + b"9" * 1900 + b"}", b"null", b"\x00"])
def test_bodies_that_are_none(server, body):
    answer = server.ask("/recommend", body)
    assert sentence(answer, answer.status) and answer.status in (400, 422)


def test_a_body_without_its_kind(server):
    answer = server.ask("/recommend", {"users": ["u1"]}, Content_Type="text/plain")
    assert "Content-Type: application/json" in sentence(answer, 422)


def test_a_body_that_is_too_large(server):
    for size in (2001, 3_000_000):
        assert "2000 bytes" in sentence(server.ask("/recommend", b" " * size), 413)
    head = b"POST /recommend HTTP/1.1\r\nHost: localhost\r\n"
    # the answer comes before the body where that is far too large
    assert server.send(head + b"Content-Length: 99999999999\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    chunks = 3 * (b"3e8\r\n" + b" " * 1000 + b"\r\n") + b"0\r\n\r\n"
    assert server.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_come(bundle):
    with running(bundle, Options(timeout=0.1)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.putrequest("POST", "/recommend")
        connection.putheader("content-length", "10")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 408 and "0.1 seconds" in json.loads(answer.read())["error"]
        connection.close()


# ------------------------------------------------------------------------------------------------------------
# who may ask


def test_a_server_without_a_token_answers_under_its_own_names_only(server):
    """Otherwise a page elsewhere could have a browser ask it, by a name that it lets point to this machine."""
    for name in ("localhost", "127.0.0.1:80", "[::1]:8000", "LocalHost:1"):
        assert server.ask("/health", Host=name).status == 200
    for name in ("evil.example", "127.0.0.1.evil.example:80", "", "[::2]"):
        assert "127.0.0.1" in sentence(server.ask("/recommend/u1", Host=name), 421)


def test_a_token(bundle):
    token = "a-token-of-enough-letters"
    wrong = (token, f"Bearer {token}x", f"Bearer {token[:-1]}", f"Basic {token}", "Bearer ")
    with running(bundle, Options(token=token.encode())) as server:
        for given in ({}, *({"Authorization": each} for each in wrong)):
            for path in ("/recommend/u1", "/metrics", "/search/users?q=", "/nothing", "/page.js/"):
                answer = server.ask(path, **given)
                assert "token" in sentence(answer, 401) and answer.headers["www-authenticate"] == "Bearer"
            assert server.ask("/health", **given).json == {"status": "ok"}
            # nothing of the bundle is in them
            for path in ("/", "/page.js", "/style.css", "/docs", "/openapi.json"):
                assert server.ask(path, **given).status == 200
        right = {"Authorization": f"bearer {token}", "Host": "recommendations.example"}
        assert server.ask("/recommend/u1", **right).status == server.ask("/metrics", **right).status == 200
        assert server.ask("/health", **right).json["bundle"]["items"] == 60
        assert sentence(server.ask("/recommend", b" " * (2 << 20)), 401)


def test_tokens_are_compared_in_constant_time(bundle, monkeypatch):
    compared = []
    monkeypatch.setattr(
        "recbole_mambarec_serving.server.guard.hmac.compare_digest", lambda a, b: compared.append((a, b)) or False
    )
    with running(bundle, Options(token=b"right" * 4)) as server:
        assert server.ask("/metrics", Authorization="Bearer wrong").status == 401
    assert compared == [(b"wrong", b"right" * 4)]


# ------------------------------------------------------------------------------------------------------------
# trouble


class Troubled:
    """A recommender whose answers are slow or fail, by the name of the user."""

    def __init__(self, path):
        self._right = Recommender.load(path)
        self.hold = threading.Event()

    def __getattr__(self, name):
        return getattr(self._right, name)

    def recommend(self, users, k=20, **options):
        if users == "u1":
            assert self.hold.wait(60)
        if users == "u2":
            raise RuntimeError("secret of the server")
        if users == "u3":
            raise UserError("the model\ncannot")
        found = self._right.recommend(users, k=k, **options)
        if users == "u4":
            return [type(found[0])(found[0].item, float("nan"))]
        return found


@contextmanager
def troubled_server(bundle, timeout):
    with running(bundle, Options(timeout=timeout, threads=2, waiting=1), load=Troubled) as server:
        server.recommender = server.app.bundles.current.recommender
        try:
            yield server
        finally:
            server.recommender.hold.set()


@pytest.fixture
def troubled(bundle):
    with troubled_server(bundle, 60) as server:
        yield server


@pytest.mark.parametrize("user", ["u2", "u4"])
def test_an_error_of_the_server_has_an_id_that_its_log_has(troubled, caplog, user):
    with caplog.at_level(logging.ERROR):
        answer = troubled.ask(f"/recommend/{user}")
    assert answer.json["id"] in sentence(answer, 500) and "secret" not in answer.body.decode()
    (record,) = [each for each in caplog.records if answer.json["id"] in each.getMessage()]
    assert record.exc_info[0] in (RuntimeError, ValueError)
    assert troubled.ask("/recommend/u5").status == 200
    assert 'route="/recommend/{user}",status="500"} 1.0' in troubled.ask("/metrics").body.decode()


def test_a_mistake_that_the_recommender_finds(troubled):
    assert sentence(troubled.ask("/recommend/u3"), 422) == "the model cannot"


def until(condition):
    """Wait for something that another thread does."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_too_many_at_once(troubled):
    with ThreadPoolExecutor(3) as clients:
        # both threads are held, one request waits, and the next is refused at once
        first = [clients.submit(troubled.ask, "/recommend/u1") for _ in range(3)]
        # the request that asks is one of them
        until(lambda: "requests_in_progress 4.0" in troubled.ask("/metrics").body.decode())
        until(lambda: troubled.ask("/recommend/u5").status == 503)
        refused = troubled.ask("/recommend/u5")
        assert "too many" in sentence(refused, 503) and refused.headers["retry-after"] == "1"
        # what needs no thread is answered
        assert troubled.ask("/health").status == 200
        troubled.recommender.hold.set()
        assert [each.result().status for each in first] == [200, 200, 200]
    assert troubled.ask("/recommend/u5").status == 200


def test_too_slow(bundle):
    with troubled_server(bundle, 0.1) as server:
        # two hold the threads beyond their time, and what waits for one is too slow as well
        for user in ("u1", "u1", "u5", "u6"):
            assert "too long" in sentence(server.ask(f"/recommend/{user}"), 503)
        server.recommender.hold.set()
        until(lambda: server.ask("/recommend/u5").status == 200)


def test_several_clients_at_once(server, recommender):
    users = [f"u{n}" for n in range(20)] * 10
    expected = {user: listed(recommender.recommend(user, k=9)) for user in set(users)}
    similar = listed(recommender.similar_items("i2", 5))

    def ask(user):
        assert server.ask("/similar/i2?k=5").json["similar"] == similar
        return server.ask(f"/recommend/{user}?k=9").json["recommendations"] == expected[user]

    with ThreadPoolExecutor(8) as clients:
        assert all(clients.map(ask, np.random.default_rng(0).permutation(users).tolist()))
