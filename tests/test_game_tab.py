"""The blind game as a person plays it: ten rounds by keyboard, by phone, after a reload; and what a peeping client finds (faults,
rows 14, 27 to 30)."""

import json
import re
import urllib.request

import browser
import playing
import pytest
from pages import Page
from playing import FOUND, OTHER

from engine import paths
from engine.backends.scripted import ScriptedBackend
from engine.game.answer_files import Question
from engine.game.decks import Deck

HOSTILE = "<script>document.title='run'</script> <img src=x onerror=alert(1)> ![x](http://evil.example/a.png)"


@pytest.fixture
def served():
    page = Page(ScriptedBackend())
    page.services.shelf.add(playing.deck())
    yield page
    page.close()


def played(page: Page) -> Deck:
    """The deck that the tests play: it is on the shelf beside the starter pack."""
    return next(deck for deck in page.services.shelf.decks() if deck.systems == (FOUND, OTHER))


def open_tab(page, deck: Deck) -> None:
    page.get_by_role("tab", name="Blind game").click()
    page.wait_for_selector("#game .setup")
    page.check(f"#game input[value='{deck.id}']")


@pytest.mark.long
@browser.needs_chromium
def test_a_deck_that_another_tab_made_is_chosen(served):
    """Whether the game was opened before or not; `window.guanacoDeck` names it."""
    with browser.opened(served.url) as page:
        page.evaluate("deck => { window.guanacoDeck = deck; }", played(served).id)
        page.get_by_role("tab", name="Blind game").click()
        page.wait_for_selector(f"#game input[value='{played(served).id}']:checked")
        later = playing.deck(13)
        served.services.shelf.add(later)
        page.evaluate("deck => { window.guanacoDeck = deck; window.guanacoPlay(); }", later.id)
        page.wait_for_selector(f"#game input[value='{later.id}']:checked")
        assert not page.errors


def wait_phase(page, phase: str) -> None:
    page.wait_for_function("phase => document.querySelector('#game [data-phase]')?.dataset.phase === phase", arg=phase)


def shorter(page) -> str:
    """The key of the shorter answer, which is FOUND's in the deck of the tests."""
    texts = page.locator("#game .answer .body").all_inner_texts()
    return "a" if len(texts[0]) < len(texts[1]) else "b"


@pytest.mark.long
@browser.needs_chromium
def test_ten_rounds_by_keyboard_and_the_card_after_them(served):
    with browser.opened(served.url) as page:
        open_tab(page, played(served))
        page.fill("#game input[name=player]", "Ana")
        page.click("#game .begin")
        for number in range(1, 11):
            wait_phase(page, "round")
            assert f"Round {number} of 10" in page.inner_text("#game .round-head")
            key = shorter(page)
            wrong = {"a": "b", "b": "a"}[key]
            page.keyboard.press(wrong)
            page.keyboard.press("u")  # before the reveal a guess can be taken back
            page.keyboard.press(key if number <= 9 else wrong)
            page.keyboard.press("4")
            assert page.is_disabled("#game [data-act=reveal]")
            page.keyboard.press("t")
            page.keyboard.press("Enter")
            wait_phase(page, "reveal")
            said = page.inner_text("#game .outcome")
            assert said.startswith("Right" if number <= 9 else "Wrong") and FOUND in page.inner_text("#game .answers")
            assert "preferred" in page.inner_text("#game .facts") and "times as long" in page.inner_text("#game .facts")
            page.keyboard.press("Enter")
        wait_phase(page, "card")
        card = page.inner_text("#game .card")
        assert card.startswith("9 of 10") and f"You can tell {FOUND} from {OTHER}" in card and "1.1%" in card
        assert "always longer" in card and "Calibration" in card and "90%" in card
        assert page.evaluate("document.querySelector('#game .card img').naturalWidth") == 1200
        with page.expect_download() as download:
            page.click("#game a[download='guanaco-replay.json']")
        replay = json.loads(download.value.path().read_text())
        assert len(replay["guesses"]) == 10 and replay["player"] == "Ana"
        page.click("#game [data-act=again]")
        wait_phase(page, "setup")
        page.click("#game .more >> nth=-1")
        page.set_input_files(
            "#game input[name=replay]", {"name": "r.json", "mimeType": "application/json", "buffer": json.dumps(replay).encode()}
        )
        page.click("#game form[data-form=replay] button")
        wait_phase(page, "round")
        assert not page.errors and not page.outside
    rows = served.services.game.records.guesses()
    assert len(rows) == 10 and sum(row.correct for row in rows) == 9 and {row.preference for row in rows} == {"tie"}


@pytest.mark.long
@browser.needs_chromium
def test_a_game_goes_on_after_a_reload_and_skips_and_ends_early(served):
    with browser.opened(served.url, width=390, height=780) as page:
        open_tab(page, played(served))
        page.click("#game .begin")
        wait_phase(page, "round")
        question = page.inner_text("#game .question")
        page.reload()
        page.wait_for_selector("#message textarea")
        page.get_by_role("tab", name="Blind game").click()
        page.click("#game [data-act=resume]")
        wait_phase(page, "round")
        assert page.inner_text("#game .question") == question
        page.click("#game [data-act=skip]")
        page.wait_for_function("question => document.querySelector('#game .question')?.innerText !== question", arg=question)
        wait_phase(page, "round")
        for selector in ("[data-guess=left]", "[data-confidence='50']", "[data-preference='both bad']", "[data-act=reveal]"):
            page.click(f"#game {selector}")
        wait_phase(page, "reveal")
        # Nothing is wider than the phone.
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.click("#game [data-act=leave]")
        wait_phase(page, "card")
        assert (
            "unfinished (1 of 10)" in page.inner_text("#game .card")
            and page.locator("#game a[download='guanaco-replay.json']").count() == 0
        )
        assert not page.errors


@pytest.mark.long
@browser.needs_chromium
def test_what_fails_says_so_and_leaves_the_way_open(served, monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", "http://127.0.0.1:9")
    with browser.opened(served.url) as page:
        page.evaluate("localStorage.setItem('guanaco-game', 'odd')")  # nothing this app gave
        page.get_by_role("tab", name="Blind game").click()
        page.click("#game [data-act=fetch]")
        page.wait_for_selector("text=cannot be reached")
        page.wait_for_selector("#game .begin")
        page.click("#game .more >> nth=-1")
        rows = "\n".join(json.dumps({"question_id": number, "text": "q", "generation_truncated": "a"}) for number in range(3))
        bad = {
            "a.jsonl is not UTF-8": b"\xff\xfe",
            "b.jsonl has 2,000,001 bytes": b"x" * 2_000_001,
            "c.jsonl, line 1: it is not JSON": b"{",
        }
        for words, data in bad.items():
            page.set_input_files("#game input[name=first]", {"name": words[:7], "mimeType": "text/plain", "buffer": data})
            page.set_input_files("#game input[name=second]", {"name": "d.jsonl", "mimeType": "text/plain", "buffer": rows.encode()})
            page.click("#game form[data-form=add] button")
            page.wait_for_selector(f"text={words}")
        assert not page.errors


@pytest.mark.long
@browser.needs_chromium
def test_hostile_answers_names_and_questions_stay_text(served):
    questions = tuple(Question(str(number), f"{number} {HOSTILE}", HOSTILE[:40]) for number in range(10))
    answers = {each.id: ((f"{each.id} {HOSTILE}",), (f"{each.id} other {HOSTILE}",)) for each in questions}
    deck = Deck(f"T {HOSTILE}", HOSTILE, (f"N1 {HOSTILE}", f"N2 {HOSTILE}"), questions, answers, {})
    served.services.shelf.add(deck)
    with browser.opened(served.url) as page:
        dialogs = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
        open_tab(page, deck)
        page.fill("#game input[name=player]", "<img src=x onerror=1>")
        page.click("#game .begin")
        wait_phase(page, "round")
        assert "<script>document.title='run'</script>" in page.inner_text("#game .answers")
        for key in ("a", "3", "n", "Enter"):
            page.keyboard.press(key)
        wait_phase(page, "reveal")
        page.click("#game [data-act=leave]")
        wait_phase(page, "card")
        assert page.locator("#game").locator("script, iframe, img:not(.card > img), [onerror]").count() == 0
        assert not dialogs and not page.outside and page.title() != "run" and not page.errors


def names_and_ids(deck: Deck) -> set[str]:
    """What would give a side away in anything a client can look at."""
    return {deck.systems[1], *(json.dumps(verdict.winner) for each in deck.verdicts.values() for verdict in each if verdict.winner)}


def test_a_peeping_client_finds_nothing_before_the_guess(served):
    """Page, configuration, API description, the event stream and every value that a round brings."""
    deck, client = played(served), served.client()
    seen = [urllib.request.urlopen(served.url + path).read().decode() for path in ("/", "/config", "/gradio_api/info")]
    begun = client.predict("", deck.id, 10, "fair", [], False, "", api_name="/game_begin")
    seen.append(json.dumps(begun))
    for text in seen:
        assert not [name for name in names_and_ids(deck) if name in text]
    # The same round the other way round differs in the texts and the random ids alone.
    round = served.services.game.records.round(begun["round"])
    side = {FOUND: "left", OTHER: "right"} if round.left == FOUND else {FOUND: "right", OTHER: "left"}
    texts = {name: deck.answers[round.question][at][0] for at, name in enumerate(deck.systems)}
    assert begun[side[FOUND]] == texts[FOUND] and begun[side[OTHER]] == texts[OTHER]
    rest = re.sub("|".join(map(re.escape, sorted(texts.values(), key=len, reverse=True))), "", begun["html"])
    assert FOUND in rest and rest.count(FOUND) == 2  # the question asked, and its label
    assert set(begun) == {
        "phase",
        "session",
        "html",
        "game",
        "round",
        "number",
        "of",
        "found",
        "question",
        "left",
        "right",
        "mode",
        "can_skip",
        "so_far",
    }
    told = client.predict(begun["session"], begun["round"], side[FOUND], 75, "tie", api_name="/game_guess")
    assert told["correct"] and {told["left"], told["right"]} == {FOUND, OTHER}


@pytest.mark.long
def test_others_rounds_and_odd_values_are_refused_in_words(served):
    deck, client = played(served), served.client()
    begun = client.predict("", deck.id, 10, "fair", [], False, "", api_name="/game_begin")
    for arguments in (["x" * 32, begun["round"], "left", 75, "tie"], [begun["session"], "nothing", "left", 75, "tie"]):
        with pytest.raises(Exception, match="expired"):
            client.predict(*arguments, api_name="/game_guess")
    with pytest.raises(Exception, match="no file|not here any more|Choose another deck"):
        client.predict("", "0" * 16, 10, "fair", [], False, "", api_name="/game_begin")
    with pytest.raises(Exception, match="Mode"):
        client.predict("", deck.id, 10, "honest", [], False, "", api_name="/game_begin")
    for length in (None, "ten", [10], 10.5, {}):
        with pytest.raises(Exception, match="Rounds|rounds"):
            client.predict("", deck.id, length, "fair", [], False, "", api_name="/game_begin")
    with pytest.raises(Exception, match="Categories"):
        client.predict("", deck.id, 10, "fair", ["x"] * 21, False, "", api_name="/game_begin")


def test_files_are_added_within_limits(served):
    client = served.client()
    rows = [{"question_id": number, "text": f"Q{number}?", "category": "", "generation_truncated": f"one {number}"} for number in range(10)]
    first = "\n".join(map(json.dumps, rows))
    second = first.replace("one", "two")
    shown = client.predict("", "first.jsonl", first, "second.jsonl", second, "", False, api_name="/game_add")
    assert "10 questions" in shown["told"] and any(deck["title"] == "first or second?" for deck in shown["decks"])
    with pytest.raises(Exception, match="first.jsonl, line 11: it is not JSON"):
        client.predict("", "first.jsonl", first + "\n{", "second.jsonl", second, "", False, api_name="/game_add")
    shown = client.predict("", "first.jsonl", first + "\n{", "second.jsonl", second, "", True, api_name="/game_add")
    assert "Left out, 1 row: first.jsonl, line 11" in shown["told"]
    before = sorted(paths.decks().iterdir())
    with pytest.raises(Exception, match="limit is 2,000,000"):
        client.predict("", "first.jsonl", "x" * 2_000_001, "second.jsonl", second, "", False, api_name="/game_add")
    assert sorted(paths.decks().iterdir()) == before


@pytest.mark.long
def test_a_duel_is_answered_unseen_and_can_be_played(served):
    client = served.client()
    job = client.submit("", "", "none", "", "scripted-one", "One?\nTwo?\nThree?", api_name="/game_duel")
    shown = job.result(timeout=60)
    outputs = job.outputs()
    assert [each["phase"] for each in outputs[:-1]] == ["working"] * 7 and not any("[scripted-one]" in json.dumps(each) for each in outputs)
    assert outputs[4]["text"] == "Question 2 of 3 is being answered by the second of the two"
    deck = next(deck for deck in shown["decks"] if deck["title"] == "scripted or scripted with scripted-one?")
    begun = client.predict("", deck["id"], 3, "raw", [], False, "", api_name="/game_begin")
    assert begun["question"]["text"] in ("One?", "Two?", "Three?") and begun["of"] == 3
    for model in ("", "scripted"):
        with pytest.raises(Exception, match="Both sides are the same"):
            client.predict("", "", "none", model, "none", "", api_name="/game_duel")


@pytest.mark.long
def test_a_public_host_takes_no_files_duels_or_fetches():
    page = Page(ScriptedBackend(), read_only=True)
    try:
        client = page.client()
        for arguments, name in (
            (["", "a", "b", "c", "d", "", False], "/game_add"),
            (["", "", "none", "", "x", ""], "/game_duel"),
            ([""], "/game_fetch"),
        ):
            with pytest.raises(Exception, match="own machine"):
                client.predict(*arguments, api_name=name)
        shown = client.predict("", api_name="/game")
        assert shown["phase"] == "setup" and 'data-form="add"' not in shown["html"] and shown["decks"]
    finally:
        page.close()
