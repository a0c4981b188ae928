"""The page in headless Chromium: by keyboard, on a wide and a narrow screen, in light and dark."""

import http.server
import json
import threading
from urllib.parse import quote

import pytest

from recbole_mambarec_serving.recommender import Recommender
from recbole_mambarec_serving.server.options import Options
from tests.server.browser import CHROMIUM, Browser
from tests.server.bundles import ODD_TITLE, ODD_USERS, made, write
from tests.server.running import running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

HEADING, ROWS = "document.querySelector('main h2')?.textContent", "document.querySelectorAll('main li').length"
FOCUS = "document.activeElement"
# of each text that is seen: its own colour and the ground it is on, as the eye gets them
CONTRASTS = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest("noscript, option")) continue;
    let ground = element;
    while (ground && parse(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
    const pair = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor].map(parse).map(light);
    found.push((Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05));
  }
  return Math.min(...found);
})()"""
# fields and buttons without a name for those who cannot see them
NAMELESS = """[...document.querySelectorAll("input, select, button, a, img")].filter((e) => e.checkVisibility() &&
  !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim() || e.hasAttribute("alt"))).length"""


@pytest.fixture(scope="module")
def browser():
    with Browser() as started:
        yield started


@pytest.fixture
def open_page(browser, server):
    """Opens the page, and sees at the end that nothing went wrong and nothing was asked of anybody else."""
    pages = []

    def opened(address="", width=1280, dark=False, port=server.port):
        page = browser.page(width, dark)
        page.origin = f"http://127.0.0.1:{port}/"
        page.go(page.origin + address)
        page.wait("document.querySelectorAll('#found li').length")
        pages.append(page)
        return page

    yield opened
    for page in pages:
        assert page.errors == []
        assert all(address.startswith(page.origin) for address in page.requests), page.requests


def test_a_user_is_found_and_looked_at_by_keyboard(open_page, bundle):
    page = open_page()
    page.run("document.getElementById('text').focus()")
    page.type("u7")
    page.press("Enter")
    page.wait("document.querySelectorAll('#found li').length === 1")
    assert page.run("document.getElementById('status').textContent") == "1 user found"
    page.press("Tab")
    page.press("Tab")
    assert page.run(f"{FOCUS}.textContent") == "u7"
    page.press("Enter")
    page.wait(f"{ROWS} === 20")
    # whoever does not see the page hears its new heading
    assert page.run(HEADING) == page.run(f"{FOCUS}.textContent") == page.run("document.title") == "Recommended to u7"
    expected = [each.item for each in Recommender.load(bundle).recommend("u7")]
    shown = page.run("[...document.querySelectorAll('main li a')].map((a) => decodeURIComponent(a.hash.slice(7)))")
    assert shown == expected
    page.run("history.back()")
    page.wait(f"{ROWS} === 0")


def test_any_id_can_be_looked_at(open_page):
    page, items = open_page(), made()
    for token in ODD_USERS:
        title = items.item(token).title or token
        for kind, heading in (("user", f"Recommended to {token}"), ("item", f"Similar to {title}")):
            page.run(f"location.hash = '#/{kind}/' + encodeURIComponent({json.dumps(token)})")
            page.wait(f"{HEADING} === {json.dumps(heading)}")
            assert page.run(ROWS) == 20


def test_a_title_is_text(open_page):
    page = open_page(f"#/item/{quote('a/b', safe='')}")
    page.wait(f"{ROWS} > 0")
    assert page.run(HEADING) == page.run("document.title") == f"Similar to {ODD_TITLE}"
    assert page.run("document.querySelectorAll('img').length") == 0


def test_what_is_changed_is_asked_anew_and_keeps_the_focus(open_page):
    page = open_page("#/user/u3")
    page.wait(f"{ROWS} === 20")
    before = page.run("document.querySelector('main ol').textContent")
    page.run("document.querySelector('main input').focus()")
    page.press("Space")
    page.wait(f"document.querySelector('main ol').textContent !== {before!r}")
    assert not page.run("document.querySelector('main input').checked")
    page.run("k.focus(); k.value = 50; k.dispatchEvent(new Event('change'))")
    # the server's limit
    page.wait(f"{ROWS} === 30")
    assert page.run(f"{FOCUS}.id") == "k"


def test_somebody_new_by_chosen_items(open_page, bundle):
    page = open_page("#/user/u3")
    page.wait(f"{ROWS} === 20")
    for place in (0, 1):
        page.run(f"document.querySelectorAll('main li button')[{place}].click()")
    chosen = page.run(
        "[...document.querySelectorAll('main li a')].slice(0, 2).map((a) => decodeURIComponent(a.hash.slice(7)))"
    )
    page.run("document.querySelector('#basket a').click()")
    page.wait(f"{HEADING}?.startsWith('Recommended to somebody')")
    shown = page.run("[...document.querySelectorAll('main li a')].map((a) => decodeURIComponent(a.hash.slice(7)))")
    assert shown == [each.item for each in Recommender.load(bundle).recommend_for(chosen, k=20)]
    page.run("document.querySelectorAll('#basket button').forEach((button) => button.click())")
    assert page.run("document.getElementById('basket').hidden")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_view_fits_and_can_be_read(open_page, width, dark):
    page = open_page(width=width, dark=dark)
    for view, there in (
        ("", "document.querySelectorAll('#found li').length"),
        ("#/user/u3", f"{HEADING} === 'Recommended to u3'"),
        ("#/item/i3", f"{HEADING}?.startsWith('Similar')"),
        ("#/user/nobody", "document.querySelector('#status.fault')"),
    ):
        page.run(f"location.hash = '{view}'")
        page.wait(there)
        page.run("document.querySelectorAll('main li button')[0]?.click()")
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run(CONTRASTS) >= 4.5, view
        assert page.run(NAMELESS) == 0
    assert page.run("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/))") == (18 if dark else 255)
    page.go(f"{page.origin}docs")
    assert page.run("document.documentElement.scrollWidth") <= width and page.run(CONTRASTS) >= 4.5


def test_mistakes_are_said(open_page):
    page = open_page("#/user/nobody")
    page.wait("document.querySelector('#status.fault')")
    assert page.run("document.getElementById('status').textContent") == "The model does not know the user nobody."
    page.run("location.hash = '#/user/%E0%A4%A'")
    page.wait("document.getElementById('status').textContent.includes('address')")
    page.run("location.hash = '#/basket'")
    page.wait("document.getElementById('status').textContent.includes('No items are chosen')")


def test_a_token_is_asked_for_and_kept(browser, bundle):
    with running(bundle, Options(token=b"right" * 4)) as server:
        page = browser.page()
        page.go(f"http://127.0.0.1:{server.port}/#/user/u3")
        for token in ("wrong", "right" * 4):
            page.wait("document.getElementById('token').checkVisibility()")
            assert page.run(ROWS) == 0
            page.run("document.getElementById('secret').focus()")
            page.type(token)
            page.press("Enter")
        page.wait(f"{ROWS} === 20 && document.getElementById('token').hidden")
        page.run("location.reload()")
        page.wait(f"{ROWS} === 20")
        assert token not in "".join(page.requests)


def test_images_come_from_hosts_that_were_named(browser, tmp_path):
    asked = []

    class Images(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("content-type", "image/svg+xml")
            self.end_headers()
            self.wfile.write(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Images) as images:
        threading.Thread(target=images.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{images.server_port}"
        path = write(tmp_path / "bundle", images=f"{origin}/{{}}.svg")
        for hosts in ((), (origin,)):
            with running(path, Options(image_hosts=hosts)) as server:
                page = browser.page()
                page.go(f"http://127.0.0.1:{server.port}/#/user/u3")
                page.wait(f"{ROWS} === 20")
                if hosts:
                    page.wait("[...document.images].filter((image) => image.naturalWidth).length")
                    assert page.run("document.images.length") == 20 and asked
                else:
                    assert page.run("document.images.length") == 0 and asked == []
                assert page.errors == []
        images.shutdown()
