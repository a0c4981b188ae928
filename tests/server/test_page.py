"""The page and the description of the interface, as the server sends them; test_browser.py uses them."""

import json
import re
from html.parser import HTMLParser
from importlib import resources
from urllib.parse import urljoin

import pytest

from recbole_mambarec_serving.server.options import Options
from recbole_mambarec_serving.server.reference import reference
from tests.server.running import running

PAGES = ("/", "/docs")


class Addresses(HTMLParser):
    """What a page loads and leads to, and what it would run."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.links, self.inline, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loaded += [given[name] for name in ("src", "href") if name in given and tag != "a"]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in given) else []


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_from_its_server_alone(server, path):
    answer = server.ask(path)
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = Addresses(answer.body.decode())
    assert page.inline == [] and page.loaded
    for address in page.loaded:
        assert "//" not in address and server.ask(urljoin(path, address)).status == 200, address
    for address in page.links:
        assert address.startswith("#") or server.ask(urljoin(path, address)).status == 200, address
        assert not address.startswith("#") or address[1:] in ["/", "/basket", *page.ids]
    assert len(set(page.ids)) == len(page.ids)
    assert server.ask(path, method="HEAD").body == b""


def test_what_the_server_says_is_only_ever_text():
    """Nothing of an answer can become markup: the script has no way to do that."""
    script = (resources.files("recbole_mambarec_serving.server") / "page" / "page.js").read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|srcdoc|javascript:", script
    )


def test_the_page_is_told_its_limits(bundle):
    with running(bundle, Options(image_hosts=("https://a.example", "https://b.example:8443"), max_k=7)) as server:
        answer = server.ask("/")
        assert b'name="image-hosts" content="https://a.example https://b.example:8443"' in answer.body
        assert b'name="longest-list" content="7"' in answer.body
        assert "img-src 'self' https://a.example https://b.example:8443;" in answer.headers["content-security-policy"]


def test_every_route_is_described(server):
    described = server.ask("/openapi.json").json
    page = server.ask("/docs").body.decode()
    assert set(described["paths"]) >= {
        "/recommend/{user}",
        "/recommend",
        "/similar/{item}",
        "/recommend-for",
        "/health",
    }
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert f"<h2><code>{method.upper()} {path}</code></h2>" in page
            assert operation["description"] in page.replace("&#x27;", "'")
            assert {"401", "422", "500"} <= set(operation["responses"])
    for schema in described["components"]["schemas"].values():
        assert schema["description"]
    # the limits of this server
    (k,) = [each for each in described["paths"]["/recommend/{user}"]["get"]["parameters"] if each["name"] == "k"]
    assert k["schema"]["maximum"] == 30
    body = described["components"]["schemas"]["UsersBody"]["properties"]
    assert (body["k"]["minimum"], body["k"]["maximum"], body["users"]["maxItems"]) == (1, 30, 20)


def test_a_description_is_escaped():
    text = "<script>alert(1)</script>"
    part = {"description": text, "schema": {"type": text, "default": text}, "name": text, "in": text}
    page = reference(
        {
            "info": {"title": text, "version": text, "description": f"{text}\n\n`{text}`"},
            "paths": {text: {"get": {"operationId": text, "parameters": [part], "responses": {"200": part}}}},
            "components": {"schemas": {text: {"properties": {text: {"type": text}}}}},
        }
    )
    assert "<script>" not in page and page.count("&lt;script&gt;") > 10
    json.dumps(page)
