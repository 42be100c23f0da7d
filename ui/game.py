"""The tab of the blind game. The page holds a secret that its games are known by; all else stays on the host until it may be seen."""

import contextlib
import math
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import gradio as gr

from engine import pictures
from engine.errors import BadInput, EngineError
from engine.game import answer_files, decks, published, replays, sharing, starter_pack
from engine.game.answer_files import MAX_CHARS, Question
from engine.game.scoring import LENGTHS
from engine.game.values import Dealt, GameSettings, Result, Reveal
from engine.messages import checked_text
from engine.services import Services
from engine.telling import counted
from ui import assets, board, form
from ui.answers import Stops
from ui.chat import ANSWERING

TAB = "game"
# All files of a deck come in one request, which has room for eight million bytes (`ui/limits.py`).
MAX_FILE_BYTES = 2_000_000
ADDED = ("first_name", "first", "second_name", "second", "questions")
# Cards are drawn apart from the rounds of others, which must not wait for them.
CARDS = {"concurrency_limit": 2, "concurrency_id": "cards"}
DUEL_QUESTIONS = 10
MAX_PROMPTS = 80


def tab(services: Services) -> None:
    """Draw the tab inside the Blocks that are open."""
    view = gr.HTML(
        {},
        html_template="<div></div>",
        js_on_load=assets.script("game.js"),
        elem_id="game",
        apply_default_css=False,
        limits={"lengths": LENGTHS, "bytes": MAX_FILE_BYTES},
    )
    tables = Tables(services)
    hidden = {
        name: gr.Textbox(visible=False, label=name)
        for name in ("session", "deck", "mode", "player", "round", "game", "guess", "preference")
    }
    # Whatever a client sends is checked by us: Gradio's numbers fail on some values without a word.
    length, confidence, categories = (gr.JSON(visible=False, label=name) for name in ("length", "confidence", "categories"))
    catches, skip_bad = (gr.Checkbox(visible=False, label=name) for name in ("catches", "skip_bad"))
    session = hidden["session"]

    def wire(event: str, function, inputs: list, *names: str, **how) -> None:
        done = getattr(view, event)(function, inputs, view, js=assets.taking("session", *names), **(form.QUICK | how))
        form.afterwards(done, "window.guanacoGameDone")

    wire("open_game", tables.open, [session], api_name="game")
    wire("resume_game", tables.resume, [session], api_name="game_resume", **CARDS)
    wire(
        "begin_game",
        tables.begin,
        [session, hidden["deck"], length, hidden["mode"], categories, catches, hidden["player"]],
        *("deck", "length", "mode", "categories", "catches", "player"),
        api_name="game_begin",
    )
    guessed = [session, hidden["round"], hidden["guess"], confidence, hidden["preference"]]
    wire("guess_round", tables.guess, guessed, "round", "guess", "confidence", "preference", api_name="game_guess")
    wire("skip_round", tables.skip, [session, hidden["round"]], "round", api_name="game_skip")
    wire("next_round", tables.deal, [session, hidden["game"]], "game", api_name="game_next")
    wire("show_card", tables.card, [session, hidden["game"]], "game", api_name="game_card", **CARDS)
    wire("fetch_answers", tables.fetch, [session], api_name="game_fetch", concurrency_limit=1, concurrency_id="fetch")
    files = [gr.Textbox(visible=False, label=name) for name in ADDED]
    wire("add_deck", tables.add, [session, *files, skip_bad], *ADDED, "skip_bad", api_name="game_add")
    replay = gr.Textbox(visible=False, label="replay")
    wire("open_replay", tables.replay, [session, replay, hidden["player"]], "replay", "player", api_name="game_replay")
    sides = [gr.Textbox(visible=False, label=name) for name in ("model_found", "adapter_found", "model_other", "adapter_other", "prompts")]
    names = ("model0", "adapter0", "model1", "adapter1", "prompts")
    wire("begin_duel", tables.duel, [session, *sides], *names, api_name="game_duel", **ANSWERING)
    view.stop_duel(tables.stop, None, None, api_name="game_stop", **form.SILENT)


class Tables:
    """What the tab's events do; each gives the view's new value: `html`, the phase, and what an API client may want of it."""

    def __init__(self, services: Services):
        self._services = services
        self._game = services.game
        self._stops = Stops()

    def open(self, session: str) -> dict:
        with form.explained():
            try:
                return self._setup(session)
            except BadInput:  # what a browser kept is no secret of ours
                return self._setup("")

    def resume(self, session: str) -> dict:
        with form.explained():
            game = self._game.latest(session) if session else None
            if not game:
                return self._setup(session)
            reveal = self._game.last_reveal(session, game)
            return self._revealed(session, reveal) if reveal and not reveal.last else self._on(session, game)

    def begin(self, session: str, deck: str, length: object, mode: str, categories: list, catches: bool, player: str) -> dict:
        with form.explained():
            values = (deck or "", _whole(length), mode, categories or [], bool(catches), (player or "").strip())
            session = session or secrets.token_urlsafe(24)
            return self._on(session, self._game.begin(session, form.read(GameSettings, *values)).game)

    def guess(self, session: str, round: str, guess: str, confidence: object, preference: str) -> dict:
        with form.explained():
            return self._revealed(session, self._game.guess(session, round, guess, _whole(confidence), preference))

    def skip(self, session: str, round: str) -> dict:
        with form.explained():
            return self._on(session, self._game.skip(session, round))

    def deal(self, session: str, game: str) -> dict:
        with form.explained():
            return self._on(session, game)

    def card(self, session: str, game: str) -> dict:
        with form.explained():
            return self._carded(session, self._game.result(session, game))

    def fetch(self, session: str) -> Iterator[dict]:
        with form.explained():
            for progress in self._services.fetch_answers():
                yield self._working(session, progress.text, progress.fraction)
            yield self._setup(session)

    def add(self, session: str, first_name: str, first: str, second_name: str, second: str, questions: str, skip_bad: bool = False) -> dict:
        with form.explained():
            if self._services.read_only:
                raise BadInput("This public host takes no files. Run the app on your own machine for them.")
            with tempfile.TemporaryDirectory() as folder:
                named = [(name or f"file {at}", text) for at, (name, text) in enumerate(((first_name, first), (second_name, second)), 1)]
                files = [answer_files.read(_written(folder, name, text), name, bool(skip_bad)) for name, text in named]
                asked = answer_files.read_questions(_written(folder, "the questions", questions), "the questions") if questions else None
            title = f"{files[0].system} or {files[1].system}?"
            deck, notes = decks.of_files(*files, asked, title, "Answers that were added here.")
            self._services.shelf.add(deck)
            told = [f"“{deck.title}” can be played: {counted(len(deck.questions), 'question')}.", *notes]
            if bad := [*files[0].bad, *files[1].bad]:
                told.append(f"Left out, {counted(len(bad), 'row')}: {' '.join(bad[:3])}")
            return self._setup(session, " ".join(told))

    def replay(self, session: str, replay: str, player: str) -> dict:
        with form.explained():
            session = session or secrets.token_urlsafe(24)
            return self._on(session, self._game.replay(session, replays.read(replay), (player or "").strip()).game)

    def duel(
        self, request: gr.Request, session: str, model_found: str, adapter_found: str, model_other: str, adapter_other: str, prompts: str
    ) -> Iterator[dict]:
        flag = self._stops.begin(request.session_hash)
        try:
            with form.explained():
                chosen = [(model_found, adapter_found), (model_other, adapter_other)]
                sides = [self._services.side(model, adapter, 1, None, 1) for model, adapter in chosen]
                names = tuple(_called(model or self._services.state().model, adapter) for model, adapter in chosen)
                if names[0] == names[1]:
                    raise BadInput("Both sides are the same. Choose another model or adapter for one of them.")
                yield self._working(session, "Both models begin to answer", 0.0, may_stop=True)
                for each in self._services.duel(sides, names, _questions(prompts), flag.is_set):
                    if isinstance(each, decks.Deck):
                        self._services.shelf.add(each)
                        yield self._setup(session, f"“{each.title}” can be played: {counted(len(each.questions), 'question')}.")
                    else:
                        yield self._working(session, each.text, each.fraction, may_stop=True)
        finally:
            self._stops.end(request.session_hash, flag)

    def stop(self, request: gr.Request) -> None:
        self._stops.stop(request.session_hash)

    def _setup(self, session: str, told: str = "") -> dict:
        services, fetch = self._services, ""
        session = session or secrets.token_urlsafe(24)
        if not published.available() and not services.read_only:
            fetch = (
                f"The original game plays ChatGPT's and Guanaco's published answers to the 80 Vicuna questions. They can be fetched from "
                f"{published.source()}: {published.size() / 1e6:.1f} MB with GPT-4's ratings, kept on this machine only."
            )
        shelf = services.shelf.decks()
        duel = (
            "" if services.read_only else board.duel_form([("The loaded model", ""), *services.model_choices()], services.adapter_choices())
        )
        earlier, player = "", ""
        if latest := self._game.latest(session):
            with contextlib.suppress(EngineError):
                row, over = self._game.standing(session, latest)
                earlier, player = ("See your last score" if over else "Go on with your game"), row.player
        repo = sharing.wanted()
        collected = f"This host's owner collects finished games, with the name you give, in the data set {repo} on the Hub." if repo else ""
        html = board.setup(shelf, fetch, player, not services.read_only, duel, earlier, collected)
        about = [
            {"id": deck.id, "title": deck.title, "questions": len(deck.questions), "categories": list(deck.categories)} for deck in shelf
        ]
        return {"phase": "setup", "session": session, "html": html, "decks": about, "told": told}

    def _working(self, session: str, text: str, fraction: float | None, may_stop: bool = False) -> dict:
        return {"phase": "working", "session": session, "html": board.working(text, fraction, may_stop), "text": text}

    def _on(self, session: str, game: str) -> dict:
        shown = self._game.deal(session, game)
        return self._dealt(session, shown) if shown else self._carded(session, self._game.result(session, game))

    def _dealt(self, session: str, shown: Dealt) -> dict:
        return {"phase": "round", "session": session, "html": board.dealt(shown), **asdict(shown)}

    def _revealed(self, session: str, shown: Reveal) -> dict:
        facts = {"game": shown.dealt.game, "correct": shown.guess.correct, "left": shown.guess.left, "right": shown.guess.right}
        return {"phase": "reveal", "session": session, "html": board.reveal(shown), "last": shown.last, **facts}

    def _carded(self, session: str, result: Result) -> dict:
        replay = self._game.replay_file(session, result.game.game) if result.over else ""
        html = board.card(result, pictures.score(result), replay)
        return {"phase": "card", "session": session, "html": html, "replay": replay, **board.facts(result.card)}


def _written(folder: str, name: str, text: object) -> Path:
    """A file of a visitor's for the readers of files. Raises BadInput where it is none or too large (faults, row 14)."""
    text = checked_text(text or "", name, MAX_FILE_BYTES)
    if len(text.encode()) > MAX_FILE_BYTES:
        raise BadInput(f"{name} has {len(text.encode()):,} bytes; the limit is {MAX_FILE_BYTES:,}.")
    path = Path(folder) / f"{secrets.token_hex(8)}.jsonl"
    path.write_text(text, encoding="utf-8")
    return path


def _whole(value: object) -> int:
    """A whole number that a client sent, -1 for what is none."""
    return int(value) if isinstance(value, int | float) and math.isfinite(value) and value == int(value) else -1


def _called(model: str, adapter: str) -> str:
    return f"{model} with {adapter}" if adapter not in (None, "", "none") else model


def _questions(prompts: str) -> list[Question]:
    """A person's own, one a line, or some of the starter pack's, one of each category in turn."""
    lines = [line.strip() for line in checked_text(prompts or "", "The questions", MAX_CHARS).splitlines() if line.strip()]
    if len(lines) > MAX_PROMPTS:
        raise BadInput(f"{len(lines)} questions are too many for a duel; the limit is {MAX_PROMPTS}.")
    if lines:
        return [Question(str(number), line, "") for number, line in enumerate(lines, 1)]
    asked = list(starter_pack.deck().questions)
    step = len(asked) // DUEL_QUESTIONS
    return asked[: step * DUEL_QUESTIONS : step]
