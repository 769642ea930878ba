"""The viewer in a real browser: keys alone, no complaint, narrow and dark, readable for all."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import BrowserContext, Page

from browser import Visit, chromium
from view_place import small_run

EVERY_RULE = {"resultTypes": ["violations"]}
COLOURS = EVERY_RULE | {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
"""What a narrow, dark page has of its own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    small_run(root / "one", prompts=120)
    small_run(root / "two", prompts=30)
    names = ("loss", "margin", "accuracy", "chosen_change", "rejected_change", "fall")
    others = {"top_mass": 0.8, "top_entropy_renormalised": 1.2}
    rows = [{"step": n, "pairs": 9} | dict.fromkeys(names, n / 9) | others for n in range(1, 9)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for name in ("one", "two"):
        (root / name / "eval_log.jsonl").write_text(text)
    return root


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The link that the command has printed."""
    command = [sys.executable, "-m", "prefine", "view", str(folder), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()
        assert server.wait(20) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with chromium(offline=False) as context:
        yield context


@contextmanager
def opened(
    context: BrowserContext,
    address: str,
    *,
    width: int = 1280,
    scheme: Literal["light", "dark"] = "light",
) -> Iterator[Visit]:
    page = context.new_page()
    page.set_default_timeout(15_000)
    seen = Visit(page)
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    yield seen
    page.close()
    assert seen.complaints == []
    own = address.split("/?")[0]
    assert [url for url in seen.requests if not url.startswith((own, "data:"))] == []


def wait_for(page: Page, words: str) -> None:
    """Wait for a page that says so, and for its script."""
    page.wait_for_selector(f"text={words}")
    page.wait_for_load_state()


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_by_keyboard_from_the_runs_to_a_note_and_back(
    browser: BrowserContext, address: str, folder: Path
) -> None:
    with opened(browser, address) as seen:
        page = seen.page
        assert "token" not in page.url
        press(page, "j", "Enter")
        page.wait_for_url("**/run/*")
        press(page, "p")
        page.wait_for_url("**/prompts")
        wait_for(page, "180 prompts")
        press(page, "/")
        page.keyboard.type("ba ")
        press(page, "Enter")
        page.wait_for_url("**q=ba**")
        wait_for(page, "3 answers")
        press(page, "j", "j", "k", "Enter")
        page.wait_for_url("**/prompt/0/*q=ba*")
        assert page.inner_text("h1").startswith("Prompt 1")
        press(page, "j")
        wait_for(page, "Prompt 2 of")
        press(page, "ArrowLeft")
        wait_for(page, "Prompt 1 of")
        press(page, "r")
        page.wait_for_url("**as=raw")
        press(page, "n")
        # In a field, keys are letters.
        page.keyboard.type("jkfu/ a note")
        # The box is ticked before the form is sent, so the next key waits for its page.
        with page.expect_navigation():
            press(page, "Escape", "f")
        page.wait_for_selector(".note-form [data-flag]:checked")
        assert page.input_value("[data-words]") == "jkfu/ a note"
        (line,) = (folder / "one.notes.jsonl").read_text().splitlines()
        assert json.loads(line)["note"] == "jkfu/ a note"
        press(page, "u")
        page.wait_for_url("**/prompts?q=ba*")
        assert page.inner_text(".tag.flag") == "flagged"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_no_page_is_too_wide_complains_or_shuts_anybody_out(
    browser: BrowserContext, address: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    axe = Axe()
    with opened(browser, address, width=width, scheme=scheme) as seen:
        page = seen.page
        own = page.url.rstrip("/")
        one, two = (
            link.get_attribute("href") or "" for link in page.query_selector_all("h2 a[data-row]")
        )
        keys = [path.rsplit("/", 1)[-1] for path in (one, two)]
        page.goto(f"{own}{one}/prompts?use=evaluated")
        wait_for(page, "60 prompts")
        evaluated = page.get_attribute("[data-row]", "href")
        page.goto(f"{own}{one}/prompts?truncated=1&sort=gap")
        trained = page.get_attribute("[data-row]", "href")
        compare = f"/compare?run={keys[0]}&run={keys[1]}&common=1"
        prompts = f"{one}/prompts?disagree=orders"
        for path in ("/", one, prompts, trained, f"{trained}&as=raw", evaluated, compare):
            page.goto(f"{own}{path}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            rules = EVERY_RULE if scheme == "light" else COLOURS
            found = axe.run(page, options=rules).response["violations"]
            serious = [
                (rule["id"], node["html"][:200], node["failureSummary"][:300])
                for rule in found
                if rule["impact"] in ("serious", "critical")
                for node in rule["nodes"]
            ]
            assert serious == [], path


def test_a_page_of_another_origin_gets_nothing(browser: BrowserContext, address: str) -> None:
    with opened(browser, address):
        pass  # The cookie is set.
    own = address.split("/?")[0]
    # The same machine under another name is another site, so nothing is sent along.
    foreign = own.replace("127.0.0.1", "localhost")
    page = browser.new_page()
    try:
        assert (answer := page.goto(foreign)) is not None and answer.status == 403
        page.set_content("<p>a page of another site</p>")
        said = page.evaluate(
            "address => fetch(address, {credentials: 'include', mode: 'no-cors'})"
            ".then(answer => answer.type, () => 'refused')",
            own,
        )
        assert said in ("opaque", "refused")
        framed = page.evaluate(
            "address => new Promise(done => { const frame = document.createElement('iframe');"
            "frame.src = address; frame.onload = () => { try { done(frame.contentDocument &&"
            " frame.contentDocument.body.innerText) } catch { done('closed') } };"
            "document.body.append(frame); setTimeout(() => done('nothing'), 1500); })",
            own,
        )
        assert "Runs" not in (framed or "")
    finally:
        page.close()


def test_a_page_of_a_run_at_work_follows_it(
    browser: BrowserContext, address: str, folder: Path
) -> None:
    manifest = folder / "two" / "manifest.json"
    before = manifest.read_text()
    value = json.loads(before)
    value["stages"]["evaluate"]["complete"] = False
    manifest.write_text(json.dumps(value))
    try:
        with opened(browser, address) as seen:
            seen.page.wait_for_selector("text=working: evaluate has not ended")
            manifest.write_text(before)
            seen.page.wait_for_selector("text=working: evaluate has not ended", state="detached")
            assert time.time() - manifest.stat().st_mtime < 15
    finally:
        manifest.write_text(before)
