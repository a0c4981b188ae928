"""A bundle is exchanged while it is served: no request fails, and no answer is of two bundles."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_serving.recommender import Recommender
from recbole_mambarec_serving.server.options import Options
from recbole_mambarec_serving.server.swap import Bundles
from tests.server.bundles import write
from tests.server.running import ROOT, running, started

links = pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege on Windows")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two bundles with the same ids and other scores."""
    folder = tmp_path_factory.mktemp("two")
    return [write(folder / name, seed=seed, name=name) for seed, name in enumerate(("First", "Second"))]


def point(link, target):
    """Let a link lead to a bundle, at one moment."""
    new = link.with_name("new")
    new.symlink_to(target)
    os.replace(new, link)


@pytest.fixture
def link(tmp_path, two):
    point(tmp_path / "current", two[0])
    return tmp_path / "current"


def served(server):
    return server.ask("/health").json["bundle"]["name"]


# ------------------------------------------------------------------------------------------------------------
# what is new, and when it is loaded


@links
def test_a_link_that_leads_elsewhere(link, two):
    bundles = Bundles(link, Recommender.load)
    assert bundles.current.recommender.name == "First" and not bundles.look()
    point(link, two[1])
    # once more, whoever changes it may not have ended
    assert not bundles.look() and bundles.look() and bundles.current.recommender.name == "Second"
    assert not bundles.look() and not bundles.look()
    point(link, two[0])
    assert bundles.look(at_once=True) and bundles.current.recommender.name == "First"


def test_a_folder_that_is_renamed_into_place(tmp_path, two):
    path = shutil.copytree(two[0], tmp_path / "bundle")
    bundles = Bundles(path, Recommender.load)
    path.rename(tmp_path / "old")
    bundles.look()
    shutil.copytree(two[1], path)
    bundles.look()
    assert bundles.look() and bundles.current.recommender.name == "Second" and bundles.fault is None


def test_a_copy_in_progress_waits(tmp_path, two):
    path, whole = tmp_path / "bundle", sorted(two[1].iterdir())
    shutil.copytree(two[0], path)
    bundles = Bundles(path, Recommender.load)
    shutil.rmtree(path)
    path.mkdir()
    for file in whole:
        shutil.copy(file, path)
        assert not bundles.look() and bundles.fault is None and bundles.current.recommender.name == "First"
    assert bundles.look() and bundles.current.recommender.name == "Second"


def test_what_changes_while_it_is_loaded_is_not_served(tmp_path, two):
    path = shutil.copytree(two[0], tmp_path / "bundle")

    def load(folder):
        found = Recommender.load(folder)
        if found.name == "Second" and not (folder / "late").exists():
            (folder / "late").write_text("more")
        return found

    bundles = Bundles(path, load)
    shutil.rmtree(path)
    shutil.copytree(two[1], path)
    assert not bundles.look(at_once=True) and bundles.fault is None
    assert bundles.look(at_once=True) and bundles.current.recommender.name == "Second"


def test_there_is_no_first_bundle(tmp_path):
    with pytest.raises(UserError, match=r"there is no bundle .*export"):
        Bundles(tmp_path / "nothing", Recommender.load)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a bundle"):
        Bundles(tmp_path / "empty", Recommender.load)


# ------------------------------------------------------------------------------------------------------------
# broken ones


def cut(path):
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-10])


def unknown(path):
    card = json.loads((path / "card.json").read_text())
    (path / "card.json").write_text(json.dumps({**card, "format": "recbole_mambarec.bundle/999"}))


def gone(path):
    shutil.rmtree(path)


@pytest.mark.parametrize(("damage", "words"), [(cut, "bytes"), (unknown, "version 999"), (gone, "gone")])
def test_a_broken_bundle_is_refused_and_said(tmp_path, two, caplog, damage, words):
    path = shutil.copytree(two[0], tmp_path / "bundle")
    with running(path) as server, caplog.at_level(logging.INFO):
        before = server.ask("/recommend/u1").json
        shutil.rmtree(path)
        shutil.copytree(two[1], path)
        damage(path)
        for _ in range(4):
            server.app.bundles.look()
        health = server.ask("/health").json
        assert health["status"] == "stale" and words in health["fault"] and health["bundle"]["name"] == "First"
        assert server.ask("/recommend/u1").json == before
        # said once, however often it is looked at
        assert [words in record.getMessage() for record in caplog.records] == [True]
        assert b'recbole_mambarec_bundle_swaps_total{outcome="refused"} 1.0' in server.ask("/metrics").body

        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(two[1], path)
        for _ in range(2):
            server.app.bundles.look()
        health = server.ask("/health").json
        assert (health["status"], health["fault"], health["bundle"]["name"]) == ("ok", None, "Second")
        assert b'recbole_mambarec_bundle_swaps_total{outcome="swapped"} 1.0' in server.ask("/metrics").body


def test_a_bundle_that_loads_but_cannot_recommend(tmp_path, two):
    class Empty:
        name = "Empty"

        def __init__(self, right):
            self.users, self.items = right.users, right.items

        def recommend(self, users, k):
            raise RuntimeError("no scores")

    path = shutil.copytree(two[0], tmp_path / "bundle")
    bundles = Bundles(
        path, lambda folder: found if (found := Recommender.load(folder)).name == "First" else Empty(found)
    )
    shutil.rmtree(path)
    shutil.copytree(two[1], path)
    assert not bundles.look(at_once=True) and "no scores" in bundles.fault
    assert bundles.current.recommender.name == "First"


# ------------------------------------------------------------------------------------------------------------
# under way


@links
def test_no_request_fails_while_bundles_are_exchanged(link, two):
    lists = {path.name: Recommender.load(path).recommend("u1", k=5) for path in two}
    expected = {name: [each.item for each in found] for name, found in lists.items()}
    seen, faults, stop = set(), [], threading.Event()

    def ask(server):
        while not stop.is_set():
            answer = server.ask("/recommend/u1?k=5")
            items = [each["item"] for each in answer.json.get("recommendations", ())]
            names = [name for name, of_it in expected.items() if of_it == items]
            (seen.update if answer.status == 200 and names else faults.append)(names or [answer])

    with running(link, poll=0.01) as server:
        clients = [threading.Thread(target=ask, args=(server,)) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            for number in range(1, 9):
                point(link, two[number % 2])
                deadline = time.monotonic() + 30
                while served(server) != two[number % 2].name:
                    assert time.monotonic() < deadline
        finally:
            stop.set()
            for client in clients:
                client.join()
    assert faults == [] and seen == set(expected)


@links
def test_a_request_keeps_the_bundle_with_which_it_began(link, two):
    begun, hold = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, path):
            self.right = Recommender.load(path)

        def __getattr__(self, name):
            return getattr(self.right, name)

        def recommend(self, users, k=20, **options):
            if users == "u1":
                begun.set()
                hold.wait(60)
            return self.right.recommend(users, k=k, **options)

    answers = []
    with running(link, Options(timeout=60), load=Slow) as server:
        client = threading.Thread(target=lambda: answers.append(server.ask("/recommend/u1?k=5")))
        client.start()
        assert begun.wait(30)
        point(link, two[1])
        assert server.app.bundles.look(at_once=True) and served(server) == "Second"
        hold.set()
        client.join()
    expected = [each.item for each in Recommender.load(two[0]).recommend("u1", k=5)]
    assert [each["item"] for each in answers[0].json["recommendations"]] == expected


# ------------------------------------------------------------------------------------------------------------
# processes


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_signals_of_a_served_process(link, two, tmp_path):
    """SIGHUP looks at once, SIGTERM ends it; a process that is killed has left nothing that would stop the next one."""
    log = tmp_path / "log"
    with started(link, "--poll=600", log=log) as server:
        assert served(server) == "First"
        point(link, two[1])
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while served(server) != "Second":
            assert time.monotonic() < deadline
        # killed while it loads
        point(link, two[0])
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.005)
        server.process.kill()
        server.process.wait()
    with started(link, log=log) as server:
        assert served(server) == "First"
        server.process.terminate()
        assert server.process.wait(30) == 0
    assert "Traceback" not in log.read_text(encoding="utf-8") and "stopped" in log.read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_process_that_is_told_to_stop_answers_first(tmp_path, two):
    """In a process of its own, whose lists take half a second."""
    program = tmp_path / "slow.py"
    program.write_text(
        "import time\n"
        "from recbole_mambarec_serving import Recommender\n"
        "right = Recommender.recommend\n"
        "def slow(self, users, k=20, **options):\n"
        "    print('computing', users, flush=True)\n"
        "    time.sleep(0.5)\n"
        "    return right(self, users, k=k, **options)\n"
        "Recommender.recommend = slow\n"
        "from recbole_mambarec_serving.server.cli import main\n"
        f"raise SystemExit(main([{str(two[0])!r}, '--port=0']))\n",
        encoding="utf-8",
    )
    log = tmp_path / "log"
    with started(two[0], log=log, command=[sys.executable, str(program)]) as server:
        answers = []
        client = threading.Thread(target=lambda: answers.append(server.ask("/recommend/u1")))
        client.start()
        deadline = time.monotonic() + 30
        while "computing u1" not in log.read_text(encoding="utf-8"):
            assert time.monotonic() < deadline
        server.process.terminate()
        client.join()
        assert answers[0].status == 200 and server.process.wait(30) == 0


@links
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_whoever_writes_the_next_bundle_is_killed(link, two, tmp_path):
    """At any moment: the server goes on with the bundle it has, or with a whole new one."""
    code = (
        "import sys, os; from pathlib import Path; from tests.server.bundles import write\n"
        "folder = Path(sys.argv[1]); number = 0\n"
        "while True:\n"
        "    number += 1\n"
        "    made = write(folder / f'{os.getpid()}-{number}', name=f'Next {number}', n_items=2000)\n"
        "    os.symlink(made, folder / 'link'); os.replace(folder / 'link', sys.argv[2]); print(number, flush=True)\n"
    )
    with running(link, poll=0.01) as server:
        for delay in (0.0, 0.01, 0.03):
            (tmp_path / "link").unlink(missing_ok=True)
            writer = subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path), str(link)], cwd=ROOT, stdout=subprocess.PIPE
            )
            assert writer.stdout.readline() == b"1\n"
            time.sleep(delay)
            writer.kill()
            writer.wait()
            writer.stdout.close()
            name = Recommender.load(link).name
            deadline = time.monotonic() + 30
            while served(server) != name:
                assert time.monotonic() < deadline
            assert server.ask("/health").json["status"] == "ok" and server.ask("/recommend/u1").status == 200
