"""From the data that come with RecBole to lists in a page: train, export, serve, ask."""

import json
from urllib.parse import quote

from recbole_mambarec_serving.recommender import Recommender
from tests import warm
from tests.server.browser import CHROMIUM, Browser
from tests.server.running import started

TRAINING = ("--model=VBPR", "--dataset=ml-100k", "--epochs=1", "--show_progress=False", "--checkpoint_dir=saved")


def test_ml_100k(tmp_path):
    for arguments in (("run", *TRAINING), ("export", "--model-file", "saved", "--out=bundle")):
        # a checkpoint has the time in its name
        given = [str(next(tmp_path.glob("saved/*.pth"))) if each == "saved" else each for each in arguments]
        done = warm.python("-m", "recbole_mambarec", *given, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    recommender = Recommender.load(tmp_path / "bundle")

    with started(tmp_path / "bundle", log=tmp_path / "serve.log") as server:
        bundle = server.ask("/health").json["bundle"]
        assert (bundle["name"], bundle["users"], bundle["items"]) == ("VBPR", 943, 1682)
        answer = server.ask("/recommend/196?k=10").json["recommendations"]
        assert [each["item"] for each in answer] == [each.item for each in recommender.recommend("196", k=10)]
        (found,) = server.ask(f"/search/items?q={quote('toy story')}").json["items"]
        for by in ("model", *bundle["modalities"]):
            assert len(server.ask(f"/similar/{found['id']}?by={by}").json["similar"]) == 10
        basket = server.ask("/recommend-for", {"items": [found["id"]]})
        assert basket.status == 200 and found["id"] not in [each["item"] for each in basket.json["recommendations"]]
        assert server.ask("/").status == 200
        if CHROMIUM is not None:
            _look(server.port, recommender)
    assert "Traceback" not in (tmp_path / "serve.log").read_text(encoding="utf-8")


def _look(port, recommender):
    with Browser() as browser:
        page = browser.page()
        page.go(f"http://127.0.0.1:{port}/#/user/196")
        page.wait("document.querySelectorAll('main li').length === 20")
        shown = json.loads(
            page.run("JSON.stringify([...document.querySelectorAll('main li a')].map((a) => a.textContent))")
        )
        assert shown == [each.title or each.item for each in recommender.recommend("196")]
        assert page.errors == []
