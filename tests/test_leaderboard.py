"""The tab of ratings: published judgements and this app's players, drawn and explained, with nothing on disk and with all of it."""

import threading
from dataclasses import replace

import browser
import numpy
import playing
import pytest
from builders import until
from conftest import SHARED, shared
from pages import Page
from playing import FOUND, OTHER

from engine import pictures
from engine.backends.scripted import ScriptedBackend
from engine.errors import BadInput
from engine.evaluate import elo, judgements, leaderboards, matches
from ui.leaderboard import Boards


@pytest.fixture
def served():
    page = Page(ScriptedBackend())
    yield page
    page.close()


@pytest.mark.long
def test_players_are_rated_by_finished_games_and_systems_by_every_preference(home):
    deck = playing.deck(30)
    table = playing.game(deck)
    for player, session, right, preference in (("Ana", "a" * 20, 9, "left"), ("Ben", "b" * 20, 4, "tie"), ("", "c" * 20, 10, "both bad")):
        playing.play(table, playing.begun(table, deck, session, player=player), right, session, preference=preference)
    unfinished = playing.begun(table, deck, "d" * 20, player="Early")
    dealt = table.deal("d" * 20, unfinished)
    table.guess("d" * 20, dealt.round, playing.side_of(table, dealt.round), 99, "right")
    guesses = table.records.guesses()
    players = leaderboards.players(guesses)
    shown = [(each.name, each.right.k, each.right.n, each.games) for each in players]
    assert shown == [("Ana", 9, 10, 1), ("Early", 1, 1, 1), ("Ben", 4, 10, 1)]
    found = leaderboards.votes(guesses)
    assert len(found) == 31 and set(found.systems) == {FOUND, OTHER} and (abs(found.longer) > 1).all()
    (board,) = leaderboards.rated(found, "bt", position=True, length=True)
    assert "Standing first" in " ".join(board.notes) and "twice as long" in " ".join(board.notes)
    alike = [(str(number), "a", "b", 1.0) for number in range(20)]
    (board,) = leaderboards.rated(matches.of_rows(alike), "bt")
    assert board.names[0] == "a" and numpy.isnan(board.low).all() and numpy.isnan(board.high).all()
    apart = leaderboards.rated(matches.of_rows([*alike, ("1", "c", "d", 0.5)]), "bt")
    assert [set(each.names) for each in apart] == [{"a", "b"}, {"c", "d"}]
    with pytest.raises(BadInput, match="Nobody has played"):
        leaderboards.votes([])


def test_without_the_published_files_the_tab_says_what_to_do(served, monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", "http://127.0.0.1:9")
    client = served.client()
    for arguments, name in ((["published", "bt", False, False], "/rate_systems"), (["published"], "/one_order"), ([], "/audit")):
        with pytest.raises(Exception, match="Blind game tab has a button"):
            client.predict(*arguments, api_name=name)
    with pytest.raises(Exception, match="Nobody has played here yet"):
        client.predict("votes", "bt", False, False, api_name="/rate_systems")
    with pytest.raises(Exception, match="needs points"):
        client.predict("votes", "relative", False, False, api_name="/rate_systems")


@shared
@pytest.mark.long
@browser.needs_chromium
def test_a_public_host_shows_what_it_has_and_later_what_its_owner_fetched(monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", "http://127.0.0.1:9")
    served = Page(ScriptedBackend(), read_only=True)
    try:
        deck, table = playing.deck(30), served.services.game
        served.services.shelf.add(deck)
        playing.play(table, playing.begun(table, deck, "a" * 20, player="Ana"), 9, "a" * 20, preference="left")
        with pytest.raises(Exception, match="only its owner can fetch") as told:
            served.client().predict("published", "bt", False, False, api_name="/rate_systems")
        assert "button" not in str(told.value)
        with browser.opened(served.url) as page:
            browser.to_tab(page, "Leaderboard")
            page.wait_for_selector(f"#ratings >> text={FOUND}")
            assert "only its owner can fetch" in page.inner_text("#rating-choices") and "Ana" in page.inner_text("#players")
            published, audit = page.get_by_label("GPT-4's published judgements"), page.locator("#audit")
            assert published.count() == 0 and not audit.is_visible() and page.get_by_label("This app's players").is_checked()
            monkeypatch.setenv("GUANACO_ANSWERS", str(SHARED / "qlora"))
            browser.to_tab(page, "Chat")
            browser.to_tab(page, "Leaderboard")
            published.check()
            page.wait_for_selector("#ratings >> text=4,480 judgements on 80 questions")
            assert audit.is_visible() and "only its owner" not in page.inner_text("#rating-choices")
            assert not page.errors and not page.outside
    finally:
        served.close()


def test_every_event_waits_for_its_turn_and_votes_are_rated_once(served, monkeypatch):
    names = ("open", "show", "rate", "one_order", "settle", "audit")
    events = [each for each in served.blocks.fns.values() if isinstance(getattr(each.fn, "__self__", None), Boards)]
    assert {each.fn.__name__ for each in events} == {*names}
    assert {(each.queue, each.concurrency_id, each.concurrency_limit) for each in events} == {(True, "ratings", 2)}
    deck, made = playing.deck(), []
    table, boards = playing.game(deck), Boards(served.services)
    rated = leaderboards.rated
    monkeypatch.setattr(leaderboards, "rated", lambda *asked: made.append(asked) or rated(*asked))
    for session in ("a" * 20, "b" * 20):
        playing.play(table, playing.begun(table, deck, session, player=session[0]), 5, session, preference="left")
        shown = [boards.rate("votes", "bt", False, False) for _ in range(3)]
        assert shown[0][1:] == shown[-1][1:] and f"<th scope=row>{session[0]}</th>" in shown[0][2]
    assert len(made) == 2 and len(made[1][0]) == 2 * len(made[0][0])


@pytest.mark.long
@browser.needs_chromium
def test_judgements_made_here_are_rated_by_judge(served, home, monkeypatch):
    """They come while the page is open."""
    monkeypatch.setenv("GUANACO_ANSWERS", "http://127.0.0.1:9")
    with browser.opened(served.url) as page:
        for kind, won, lost in (("threeclass", 1, 2), ("score", [8.0, 4.0], [4.0, 8.0])):
            folder = judgements.folder("judge <1>", "vicuna", kind)
            folder.mkdir(parents=True)
            for first, second, score in (("mine", "Guanaco-65B", won), ("Guanaco-65B", "mine", lost)):
                rows = [
                    {"question_id": number, "answer1_id": f"{first}{number}", "answer2_id": f"{second}{number}", "score": score}
                    for number in range(20)
                ]
                playing.written(folder / f"{first}-vs-{second}.jsonl", rows)
        page.get_by_role("tab", name="Leaderboard").click()
        page.get_by_label("Judged by judge -1- on vicuna").check()
        page.wait_for_selector("#ratings >> text=40 judgements on 20 questions")
        page.get_by_label("Elo, as in the paper").check()
        page.wait_for_selector("#ratings >> text=random orders; its own error")
        page.get_by_label("Percent of ChatGPT").check()
        page.wait_for_selector("#ratings >> text=200.0%")
        assert "percent of Guanaco-65B's points" in page.inner_text("#ratings")
        assert not page.errors and not page.outside


@pytest.mark.long
@browser.needs_chromium
def test_the_last_choice_is_rated_however_late_the_ratings_before_it_come(served, home, monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", "http://127.0.0.1:9")
    go, rated, offered, begun = threading.Event(), leaderboards.rated, Boards._missing, []

    def held(found, *how):
        begun.append(how)
        assert go.wait(60)
        return [replace(board, notes=[f"rated by {how}"]) for board in rated(found, *how)]

    def offered_late(boards):
        begun.append("offered")
        return go.wait(60) and offered(boards)

    for judge in ("one", "two"):
        for kind, score in (("threeclass", 1), ("score", [8.0, 4.0])):
            folder = judgements.folder(judge, "vicuna", kind)
            folder.mkdir(parents=True)
            for first, second in (("mine", "other"), ("other", "mine")):
                row = {"question_id": 1, "answer1_id": first, "answer2_id": second, "score": score}
                playing.written(folder / f"{first}-vs-{second}.jsonl", [row])
    monkeypatch.setattr(leaderboards, "rated", held)
    with browser.opened(served.url) as page:

        def everything_came():
            page.click("#one-order")
            page.wait_for_selector("#order-text >> text=drawn at random")

        browser.to_tab(page, "Leaderboard")
        page.get_by_label("Judged by one on vicuna").check()
        until(lambda: page.evaluate("1") and begun)
        page.check("#rate-position input")
        page.get_by_label("Elo, as in the paper").check()
        go.set()
        page.wait_for_selector("#ratings >> text=rated by ('elo', True, False)")

        go.clear()
        browser.to_tab(page, "Chat")
        begun.clear()
        browser.to_tab(page, "Leaderboard")
        until(lambda: page.evaluate("1") and begun)
        page.get_by_label("Percent of ChatGPT").check()
        page.wait_for_selector("#ratings >> text=Points that the judge gave")
        go.set()
        everything_came()
        assert "Points that the judge gave" in page.inner_text("#ratings")

        monkeypatch.setattr(Boards, "_missing", offered_late)
        go.clear()
        browser.to_tab(page, "Chat")
        begun.clear()
        browser.to_tab(page, "Leaderboard")
        until(lambda: page.evaluate("1") and begun)
        page.get_by_label("Judged by two on vicuna").check()
        go.set()
        everything_came()
        assert page.get_by_label("Judged by two on vicuna").is_checked() and not page.errors


@pytest.mark.long
def test_a_reference_without_points_makes_no_percents(home, monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", "http://127.0.0.1:9")
    folder = judgements.folder("judge", "vicuna", "score")
    folder.mkdir(parents=True)
    for first, second, score in (("mine", "ChatGPT", [4, 8]), ("ChatGPT", "mine", [0, 8]), ("ChatGPT", "other", [0, 8])):
        row = {"question_id": 1, "answer1_id": first, "answer2_id": second, "score": score}
        playing.written(folder / f"{first}-vs-{second}.jsonl", [row])
    page = Page(ScriptedBackend())
    try:
        table = page.client().predict("judge on vicuna", "relative", False, False, api_name="/rate_systems")[1]
    finally:
        page.close()
    assert "<td>50.0%</td>" in table and "<th scope=row>other</th><td>–</td>" in table and "left out: 2." in table


def test_odd_names_of_systems_are_drawn_as_they_are(served):
    """A name may look like mathematics to the library that draws."""
    found = matches.of_rows([(str(number), "$\\frac$", "_low", float(number % 2)) for number in range(20)])
    for figure in (pictures.order(found.systems, elo.one_order(found, 0)), pictures.ratings(found.systems, [1, 2], [0, 1], [2, 3])):
        pictures._png(figure)
    assert len(pictures.order(found.systems, elo.one_order(found, 0)).axes[0].get_legend().get_texts()) == 2


@shared
@pytest.mark.long
@browser.needs_chromium
def test_the_published_ratings_are_drawn_explained_and_audited(served, monkeypatch):
    monkeypatch.setenv("GUANACO_ANSWERS", str(SHARED / "qlora"))
    with browser.opened(served.url) as page:
        browser.to_tab(page, "Leaderboard")
        page.wait_for_selector("#ratings table")  # at once, as it opens
        shown = page.inner_text("#ratings")
        assert "Guanaco-65B" in shown and "1176 (#1)" in shown and "4,480 judgements on 80 questions" in shown
        page.wait_for_selector("#rating-plot img")
        page.check("#rate-position input")
        page.wait_for_selector("#ratings >> text=Standing first is worth +1")
        page.get_by_label("Elo, as in the paper").check()
        page.wait_for_selector("#ratings >> text=random orders; its own error")
        page.get_by_label("Percent of ChatGPT").check()
        page.wait_for_selector("#ratings >> text=99.3%")
        page.click("#one-order")
        page.wait_for_selector("#order-text >> text=One order of 500 matches")
        page.click("#many-orders")
        page.wait_for_selector("#order-text >> text=The mean over 10,000 orders")
        page.click("#audit")
        page.wait_for_selector("#order-text table")
        assert "Guanaco-7B, percent of ChatGPT" in page.inner_text("#order-text")
        assert not page.errors and not page.outside
