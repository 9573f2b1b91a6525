"""The page in a browser, before a server with budgets whose engine is synthetic: it sleeps, and its tables are made up."""

import base64
import json
import re
from contextlib import contextmanager
from html.parser import HTMLParser

import pytest
from headless import PATIENCE_MS, launched
from page_server import SyntheticServer, ask_over_http, served
from serving_desk import picture_url

from paceline.page.files import CONTENT_SECURITY_POLICY, LARGEST_PAGE_BYTES, page_files
from paceline.slo import Proportion

HOSTILE = "<img src=x onerror=alert(1)>"
GENEROUS, TIGHT, BELOW_ALL = 1000, 300, 20
browser = pytest.fixture(scope="module")(launched)


class Visit:
    """An opened page with all that it asked for and all that went wrong in it."""

    def __init__(self, browser, address, *, width=1280, scheme="light"):
        self.address, self.complaints, self.asked = address, [], []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready=yes]")

    def take_example(self):
        self.page.click("#example")
        self.page.wait_for_selector("#preview:not([hidden])")
        return self

    def budget(self, ms, name="a"):
        self.page.fill(f"#exact-{name}", str(ms))
        self.page.press(f"#exact-{name}", "Tab")

    def ask(self, *, answers=1):
        self.page.click("#go")
        return self.answers(answers)

    def answers(self, count=1):
        self.until(
            "document.getElementById('stop').hidden && document.querySelectorAll('.answer').length === arg && "
            "document.querySelector('.answer.running') === null",
            count,
        )
        return [card.inner_text() for card in self.page.locator(".answer").all()]

    def until(self, holds, arg=None):
        """Wait for an expression over the page; its policy lets no test evaluate a text in it later."""
        waiting = f"async arg => {{ const end = performance.now() + {PATIENCE_MS}; "
        waiting += f"while (!({holds})) {{ if (performance.now() > end) throw new Error('never'); "
        self.page.evaluate(waiting + "await new Promise(requestAnimationFrame); } }", arg)

    def slide_to(self, ms):
        """Drag the slider: it moves, and is let go at the nearest of its budgets."""
        self.page.evaluate(
            "async ms => { const s = document.getElementById('budget-a'); for (let at = 0; at <= Number(s.max); at++) { "
            "s.value = at; s.dispatchEvent(new Event('input')); "
            "if (document.getElementById('exact-a').valueAsNumber >= ms) break; } s.dispatchEvent(new Event('change')); }",
            ms,
        )


@contextmanager
def visited(browser, app, *, ahead=(), **look):
    """Open the page of a server that was asked for some budgets before."""
    with served(app) as address:
        for budget_ms in ahead:
            ask_over_http(address, budget_ms, stream=True)
        visit = Visit(browser, address, **look)
        try:
            yield visit
        finally:
            visit.page.close()


def chips(text):
    found = re.search(r"tier (\w+)\s+(\d+) experts\s+(\d+) blocks\s+([\d,]+) image tokens", text)
    assert found, text
    return found.groups()


def test_a_dragged_budget_leads_to_another_configuration_and_is_kept(browser):
    app = SyntheticServer()
    with visited(browser, app) as visit:
        visit.take_example().budget(GENEROUS)
        (wide,) = visit.ask()
        assert "✓ kept" in wide and "4 8 2 0" in wide and chips(wide) == ("high", "8", "16", "90")
        assert re.search(r"bound \d+ ms", wide) and f"budget {GENEROUS:,} ms" in wide and "95 of 100" in wide
        assert re.search(r"queue\s+[\d.]+ ms\s+prefill\s+[\d.]+ ms", wide) and "rest of answer" in wide
        visit.slide_to(TIGHT)  # asks by itself once it is let go
        visit.until("document.querySelector('.answer h3').textContent === 'Budget 300 ms'")
        (tight,) = visit.answers()
        assert "✓ kept" in tight and chips(tight) != chips(wide)
        assert visit.page.inner_text("#announced").startswith("Kept 300 ms: ")
        visit.until("document.querySelectorAll('#rows tr').length === 2")
        assert visit.page.inner_text("#kept").startswith("2 of 2")
        assert "95 % interval 15.8 % to 100 %; target 95.0 %" in visit.page.inner_text("#kept-note").replace(
            "\N{NO-BREAK SPACE}", " "
        )
        assert visit.complaints == []
    assert [fields["max_tokens"] for fields in app.received] == [128, 128]
    assert all("latency_budget_ms" not in fields for fields in app.received)


def test_two_budgets_stand_beside_each_other_and_each_is_alone(browser):
    app = SyntheticServer()
    with visited(browser, app) as visit:
        visit.take_example()
        visit.page.check("#compare")
        visit.budget(GENEROUS)
        visit.budget(TIGHT, "b")
        wide, tight = visit.ask(answers=2)
        assert chips(wide) != chips(tight) and "not promised" not in wide + tight
        places = [card.bounding_box() for card in visit.page.locator(".answer").all()]
        assert places[0]["y"] == places[1]["y"] and places[0]["x"] + places[0]["width"] < places[1]["x"]
        assert visit.complaints == []


def test_what_nothing_keeps_is_marked_or_refused_with_what_would_do(browser):
    with visited(browser, SyntheticServer()) as visit:
        visit.take_example().budget(BELOW_ALL)
        (degraded,) = visit.ask()
        assert "nothing fits" in degraded and "no configuration is bounded by this budget" in degraded
        visit.page.click(".more summary")
        visit.page.select_option("#infeasible", "refuse")
        visit.page.wait_for_selector(".answer.failed")
        (refused,) = visit.answers()
        assert "refused (422)" in refused and "low_2_8 needs" in refused
        visit.page.click(".answer button")
        visit.page.wait_for_selector(".answer.kept, .answer.missed")
        assert visit.page.locator("#exact-a").input_value() == re.search(r"needs (\d+) ms", refused)[1]


def test_everything_is_done_from_the_keyboard(browser):
    with visited(browser, SyntheticServer()) as visit:
        page = visit.page
        at = "(document.activeElement.id || document.activeElement.className)"
        reached = []
        for _ in range(9):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(at))
        expected = ["skip", "file", "example", "question", "exact-a", "budget-a", "go", "compare"]
        assert [each for each in reached if each in expected] == expected
        page.focus("#budget-a")
        before = page.locator("#exact-a").input_value()
        page.keyboard.press("ArrowRight")
        assert float(page.locator("#exact-a").input_value()) > float(before)
        assert page.get_attribute("#budget-a", "aria-valuetext") == f"{page.locator('#exact-a').input_value()} ms"
        page.focus("#example")
        page.keyboard.press("Enter")
        page.wait_for_selector("#preview:not([hidden])")
        page.focus("#question")
        page.keyboard.press("Enter")
        (answer,) = visit.answers()
        assert "✓ kept" in answer


def test_pictures_are_dropped_pasted_and_chosen(browser, tmp_path):
    app = SyntheticServer()
    data = picture_url(64, 48)
    with visited(browser, app) as visit:
        page = visit.page
        carried = (
            "async data => { const blob = await (await fetch('page/example.png')).blob(); const carried = new DataTransfer(); "
            "const bytes = Uint8Array.from(atob(data.split(',')[1]), letter => letter.charCodeAt(0)); "
            "carried.items.add(new File([bytes], 'NAME.png', {type: 'image/png'})); "
        )
        page.evaluate(
            carried.replace("NAME", "dropped")
            + "document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: carried, bubbles: true, "
            "cancelable: true})); }",
            data,
        )
        visit.until("document.getElementById('picture-said').textContent.startsWith('dropped.png, 64 × 48')")
        page.evaluate(
            carried.replace("NAME", "pasted")
            + "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: carried})); }",
            data,
        )
        visit.until("document.getElementById('picture-said').textContent.startsWith('pasted.png, 64 × 48')")
        (tmp_path / "chosen.png").write_bytes(base64.b64decode(data.split(",")[1]))
        page.set_input_files("#file", tmp_path / "chosen.png")
        visit.until("document.getElementById('picture-said').textContent.startsWith('chosen.png, 64 × 48')")
        visit.ask()
        (tmp_path / "broken.png").write_bytes(b"no picture")
        page.set_input_files("#file", tmp_path / "broken.png")
        visit.until("document.getElementById('picture-said').textContent.includes('cannot be read')")
        (tmp_path / "words.txt").write_text("words")
        page.set_input_files("#file", tmp_path / "words.txt")
        visit.until("document.getElementById('picture-said').textContent.includes('expected PNG')")
        assert page.is_visible("#preview")  # the one before stays
    assert app.received[0]["messages"][0]["content"][0]["image_url"]["url"] == data


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1280, "dark")])
def test_it_fits_a_phone_follows_the_scheme_and_can_be_read(browser, width, scheme):
    ahead = (BELOW_ALL, TIGHT, GENEROUS)
    with visited(browser, SyntheticServer(), ahead=ahead, width=width, scheme=scheme) as visit:
        visit.take_example()
        visit.page.check("#compare")
        visit.page.click(".more summary")
        visit.page.click("figure summary")
        visit.budget(BELOW_ALL, "b")
        visit.ask(answers=2)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == width
        paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        assert visit.page.evaluate(CONTRASTS) == []
        assert visit.page.evaluate(NAMELESS) == []
        assert visit.complaints == []


# every visible text against the first opaque ground below it, by WCAG 2.2's formula
CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => { for (; node; node = node.parentElement) {
    const found = parse(getComputedStyle(node).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found; } return [255, 255, 255]; };
  const poor = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some(each => each.nodeType === 3 && each.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest('svg, .unseen, option')) continue;
    const [one, two] = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
    const contrast = (one + 0.05) / (two + 0.05);
    if (contrast < 4.5) poor.push([node.className, node.textContent.slice(0, 40), contrast]);
  }
  return poor;
}"""
NAMELESS = """() => [...document.querySelectorAll('input, select, textarea, button, [role=img], [role=region]')]
  .filter(each => !(each.labels?.length || each.getAttribute('aria-label') || each.textContent.trim())).map(each => each.id)"""


def test_it_asks_its_own_server_alone(browser):
    with visited(browser, SyntheticServer()) as visit:
        visit.take_example()
        visit.ask()
        others = [url for url in visit.asked if not url.startswith((f"{visit.address}/", f"blob:{visit.address}/"))]
        assert others == [] and visit.complaints == []
        for way in ("fetch('http://127.0.0.1:9/')", "import('data:text/javascript,1')"):
            assert visit.page.evaluate(f"{way}.then(() => 'reached', () => 'held back')") == "held back"
        visit.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
        visit.page.wait_for_timeout(0)
        assert visit.page.evaluate("window.ran") is None


def test_what_a_server_says_is_text_not_markup(browser):
    app = SyntheticServer(answers=dict.fromkeys(("low", "medium", "high", None), HOSTILE), model=HOSTILE)
    with visited(browser, app) as visit:
        assert visit.page.inner_text("#server-said") == f"{HOSTILE} is ready"
        app.more_reports.append(
            {"config": {"tier": HOSTILE, "top_k": HOSTILE}, "not_promised_because": HOSTILE, "budget_ms": 3}
        )
        app.more_reports.append({"config": None, "ttft_ms": "soon"})
        visit.take_example()
        (answer,) = visit.ask()
        assert HOSTILE in answer
        visit.until("document.querySelectorAll('#rows tr').length === 3")
        assert visit.page.locator("img").count() == 1  # the preview
        assert visit.complaints == []


def test_a_server_without_budgets_or_list_or_stream_is_answered_for_too(browser):
    with visited(browser, SyntheticServer(budgets=False, lists_recent=False)) as visit:
        (answer,) = visit.take_example().ask()
        assert "took no notice of the budget" in answer and "4 8 2 0" in answer
    with visited(browser, SyntheticServer(lists_recent=False)) as visit:
        visit.take_example().ask()
        visit.until("document.querySelectorAll('#rows tr').length === 1")
        assert "lists none of others" in visit.page.inner_text("#recent-source")


def test_nothing_promised_yet_says_why(browser):
    with visited(browser, SyntheticServer(calibration=0)) as visit:
        (answer,) = visit.take_example().ask()
        assert "no bound yet" in answer and "0 of 45 requests" in answer
        visit.until("document.getElementById('kept-note').textContent.includes('0 of 45 requests')")


def test_a_key_that_a_server_asks_for_goes_with_every_request(browser):
    app = SyntheticServer()
    locked = app.__call__

    async def guarded(scope, receive, send):
        given = dict(scope.get("headers", ())).get(b"authorization")
        if scope.get("path", "").startswith("/v1/") and given != b"Bearer open":
            body = json.dumps({"error": {"message": "no key"}}).encode()
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": body})
            return
        await locked(scope, receive, send)

    with visited(browser, guarded) as visit:
        assert visit.page.inner_text("#server-said") == "The server asks for an API key."
        assert visit.page.evaluate("document.activeElement.id") == "key"
        visit.page.fill("#key", "open")
        visit.page.press("#key", "Tab")
        visit.until("document.getElementById('server-said').textContent === 'synthetic is ready'")
        assert "✓ kept" in visit.take_example().ask()[0]


def test_intervals_are_those_of_the_package(browser):
    with visited(browser, SyntheticServer()) as visit:
        for hits, count in ((0, 1), (1, 1), (2, 7), (36, 37), (93, 100), (100, 100), (1, 1000)):
            found = visit.page.evaluate(
                "async ([hits, count]) => (await import('./page/interval.js')).exactInterval(hits, count)",
                [hits, count],
            )
            expected = Proportion(successes=hits, count=count).interval()
            assert found == pytest.approx({"low": expected.low, "high": expected.high}, abs=1e-9)


def test_the_files_are_small_whole_and_say_what_may_run():
    files = page_files()
    assert sum(len(each.content) for each in files.values()) <= LARGEST_PAGE_BYTES
    assert all(each.headers["content-security-policy"] == CONTENT_SECURITY_POLICY for each in files.values())
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    named = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found = dict(attrs)
            assert "style" not in found and not any(name.startswith("on") for name in found), (tag, attrs)
            assert tag != "script" or found["src"]
            named.extend(value for name, value in attrs if name in ("src", "href") and not value.startswith("#"))

    Reader().feed(files["/"].content.decode())
    assert named and all(f"/{each}" in files for each in named)
    for path, file in files.items():
        if path.endswith((".js", ".css")):
            imports = re.findall(r'from "\./([\w.]+)"', file.content.decode())
            assert all(f"/page/{each}" in files for each in imports)
            assert not re.search(rb"https?://(?!www\.w3\.org/)", file.content), path
