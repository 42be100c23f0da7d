"""What a person does in a real browser: first with the scripted backend, then with the real starter."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import browser
import builders
import pytest
from conftest import ROOT

pytestmark = [pytest.mark.long, browser.needs_chromium]


class Address(str):
    """Where an app is, with its process and the lines that it has printed."""

    log: list[str]
    process: subprocess.Popen


@contextlib.contextmanager
def app(*arguments: str, port: int | None = None, **env: str):
    """`python app.py ARGUMENTS` on a port (None: a free one); gives its address, see `Address`, once a page answers."""
    port = port or builders.free_port()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--port", str(port), *arguments],
        cwd=ROOT,
        env={**os.environ, **env},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    log: list[str] = []
    threading.Thread(target=lambda: log.extend(process.stdout), daemon=True).start()
    url = Address(f"http://127.0.0.1:{port}")
    url.log, url.process = log, process
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=5).read()
                break
            assert process.poll() is None, "".join(log)
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def scripted():
    with app("--model", "scripted") as url:
        yield url


def test_send_stream_stop_retry_clear(scripted):
    with browser.opened(scripted) as page:
        page.wait_for_selector("#status >> text=scripted")
        browser.send(page, "Hello")
        page.wait_for_selector("#stop", state="visible")
        facts = browser.wait_facts(page, "ended by itself")
        assert "tokens/s" in facts and page.input_value("#message textarea") == ""
        first = browser.answers(page, 1)[0]
        assert "scripted backend" in first and "🦙" in first
        browser.act(page, "Answer again")
        page.wait_for_selector("text=2/2")
        browser.wait_facts(page, "ended by itself")
        browser.answers(page, 1)
        browser.send(page, "Again")
        page.wait_for_selector("#stop", state="visible")
        page.wait_for_function("document.querySelectorAll('#conversation .bot .block').length > 1")
        page.fill("#message textarea", "typed meanwhile")
        page.click("#stop")
        browser.wait_facts(page, "stopped")
        page.wait_for_selector("#send", state="visible")
        assert page.input_value("#message textarea") == "typed meanwhile"
        browser.clear(page)
        assert not page.outside and not page.errors


def test_the_adapter_picker_follows_the_model():
    with app("--model", "scripted", "--adapter", "scripted-llama") as url, browser.opened(url) as page:
        page.wait_for_function("document.querySelector('input[aria-label=Adapter]').value.startsWith('scripted-llama')")
        browser.send(page, "Hello")
        browser.wait_facts(page, "ended by itself")
        assert "[scripted-llama]" in browser.answers(page, 1)[0]


def test_names_of_strangers_are_shown_as_text(scripted):
    with browser.opened(scripted) as page:
        page.fill("input[aria-label=Model]", "![x](http://evil.example/a.png)<img src=http://evil.example/b.png>")
        page.press("input[aria-label=Model]", "Enter")
        page.get_by_role("button", name="Load", exact=True).click()
        page.wait_for_selector("text=There is no model")
        assert not page.outside


def test_nothing_is_lost_when_a_message_is_refused(scripted):
    with browser.opened(scripted) as page:
        long = "word " * 7000
        page.fill("#message textarea", long)
        page.press("#message textarea", "Enter")
        page.wait_for_selector("text=limit is 32,000")
        assert page.input_value("#message textarea") == long


def test_a_closed_tab_ends_generation_for_the_next_visitor(scripted):
    with browser.opened(scripted) as page:
        browser.send(page, "Hello")
        page.wait_for_function("document.querySelectorAll('#conversation .bot .block').length > 0")
    with browser.opened(scripted) as page:
        browser.send(page, "Hello")
        assert "first after 0." in browser.wait_facts(page, "ended by itself")


def test_the_warning_and_the_title_are_there_and_nothing_comes_from_outside(scripted):
    with browser.opened(scripted, width=390, height=844) as page:
        assert "Guanaco Playground" in page.title()
        assert "may be wrong" in page.inner_text("#talk .footnote")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert not page.outside


def test_a_first_visitor_sees_a_real_answer_cut_and_continued(starter_home):
    """The real starter, loaded behind a page that is already there; the message waits its turn."""
    with app(GUANACO_HOME=str(starter_home)) as url, browser.opened(url) as page:
        page.click("text=Sampling")
        for label, value in (("Temperature", "0"), ("Longest answer", "48")):
            page.get_by_label(f"number input for {label}").fill(value)
            page.keyboard.press("Tab")
        browser.send(page, "Name the capital of France, and then tell a story about it.")
        page.wait_for_function("document.querySelectorAll('#conversation .bot .block').length > 0", timeout=120_000)
        lengths = set()
        while page.is_visible("#stop"):
            lengths.add(len(browser.answers(page, 1)[0]))
            page.wait_for_timeout(50)
        browser.wait_facts(page, "48 tokens", 120_000)
        begun = browser.answers(page, 1)[0].rstrip()
        assert "Paris" in begun and len(lengths) > 3, "the answer came in pieces"
        assert "Q4_1" in page.inner_text("#status") and " in use" in page.inner_text("#status")
        browser.act(page, "Continue this answer")
        page.wait_for_function(
            """document.body.dataset.answering === 'false' &&
            !/(^|\\D)48 tokens/.test([...document.querySelectorAll('#conversation .facts')].pop()?.innerText ?? '48 tokens')""",
            timeout=120_000,
        )
        whole = browser.answers(page, 1)[0]
        assert whole.startswith(begun) and len(whole) > len(begun) + 5


def test_an_app_that_cannot_start_says_why_in_one_line():
    done = subprocess.run([sys.executable, "app.py", "--model", "nope"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "There is no model" in done.stderr


def test_a_port_that_is_taken_is_told_before_anything_is_fetched(home):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run([sys.executable, "app.py", "--port", str(port)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, f"Port {port} is taken. Choose another one with --port.\n")
    assert not home.exists(), "nothing was begun"
