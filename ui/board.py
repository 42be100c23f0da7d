"""The blind game as HTML: setup, round, reveal and score card. All that comes from models and strangers is escaped or rendered as
Markdown that is safe; before the guess nothing here knows whose answer is whose."""

import base64
import json
from collections.abc import Sequence
from html import escape

from engine.game.decks import Deck
from engine.game.replays import MAX_PLAYER_CHARS
from engine.game.scoring import CONFIDENCES, Card, Share
from engine.game.style import BOTS
from engine.game.values import Dealt, GameSettings, Result, Reveal
from ui import markdown, render

SIDES = dict(zip(("left", "right"), render.SIDES, strict=True))
SURE = {50: "a coin", 60: "a hunch", 75: "fairly", 90: "very", 99: "certain"}
PUBLIC = " They are public: who looks them up spoils it."
PREFERENCES = {"left": ("A", "A"), "right": ("B", "B"), "tie": ("Tie", "T"), "both bad": ("Both bad", "N")}
_FIELDS = GameSettings.model_fields


def setup(decks: Sequence[Deck], fetch: str, player: str, may_add: bool, duel: str, earlier: str, collected: str) -> str:
    """Where a game is begun. `fetch` is what is said of the published answers where they are not here, else empty; `duel` is the
    form for a duel of models, empty where there is none; `earlier` what the button says that leads to the visitor's latest game;
    `collected` where guesses are sent to, if anywhere."""
    choices = "".join(
        f'<label class="deck"><input type="radio" name="deck" value="{deck.id}"{" checked" if not at else ""}'
        f' data-categories="{escape(json.dumps(deck.categories))}" data-count="{len(deck.questions)}" data-catches="{int(deck.can_catch)}">'
        f"<span><b>{escape(deck.title)}</b> {escape(deck.about)}{PUBLIC * deck.public}</span></label>"
        for at, deck in enumerate(decks)
    )
    modes = "".join(
        f'<label><input type="radio" name="mode" value="{mode}"{" checked" if mode == "fair" else ""}><span>{mode.capitalize()}</span></label>'
        for mode in ("fair", "raw")
    )
    fetching = f'<div class="fetch"><p>{escape(fetch)}</p><button type="button" data-act="fetch">Fetch them</button></div>' if fetch else ""
    resume = f'<p class="resume"><button type="button" data-act="resume">{escape(earlier)}</button></p>' if earlier else ""
    notice = f'<small class="collected">{escape(collected)}</small>' if collected else ""
    add = _ADD if may_add else ""
    return f"""<div class="setup"><h2>Which one is it?</h2>
<p class="lead">Two answers to one question, side by side, by two systems. Guess which is whose, and say which is better. Then see who they are.</p>
{resume}{fetching}<form data-form="begin"><fieldset class="decks"><legend>Answers</legend>{choices}</fieldset>
<div class="options"><fieldset><legend>{_FIELDS["length"].title}</legend><div class="picks lengths"></div><small>{escape(_FIELDS["length"].description)}</small></fieldset>
<fieldset><legend>{_FIELDS["mode"].title}</legend><div class="picks">{modes}</div><small>{escape(_FIELDS["mode"].description)}</small></fieldset>
<fieldset><legend>{_FIELDS["player"].title}</legend><input name="player" maxlength="{MAX_PLAYER_CHARS}" value="{escape(player)}" aria-label="{_FIELDS["player"].title}"><small>{escape(_FIELDS["player"].description)}</small></fieldset>
<fieldset class="catches"><legend>{_FIELDS["catches"].title}</legend><label class="check"><input type="checkbox" name="catches"> <span>{escape(_FIELDS["catches"].description)}</span></label></fieldset></div>
<details class="categories"><summary>Categories: <span>all</span></summary><div class="picks many"></div></details>
<button class="primary begin">Begin</button>{notice}</form>{duel}{add}</div>"""


_ADD = """<details class="more"><summary>Play your own answers, or a friend's game</summary>
<form data-form="add"><p>Two files of answers as JSON Lines, in either schema: <code>answer_id, model_id, question_id, text</code> or
<code>question_id, text, category, generation_truncated</code>. A file of questions (<code>question_id, text, category</code>) is needed where neither file has them.</p>
<label>To be found <input type="file" name="first" accept=".jsonl,.json,.ndjson" required></label>
<label>The other <input type="file" name="second" accept=".jsonl,.json,.ndjson" required></label>
<label>Questions <input type="file" name="questions" accept=".jsonl,.json,.ndjson"></label>
<label class="check"><input type="checkbox" name="skip_bad"> <span>Leave out rows that cannot be read instead of stopping at the first</span></label><button>Add these answers</button></form>
<form data-form="replay"><label>A replay file <input type="file" name="replay" accept=".json" required></label><button>Play this game</button></form></details>"""


def duel_form(models: Sequence[tuple[str, str]], adapters: Sequence[tuple[str, str]]) -> str:
    """Two models of this machine against each other."""

    def select(name: str, label: str, choices: Sequence[tuple[str, str]]) -> str:
        options = "".join(f'<option value="{escape(value)}">{escape(shown)}</option>' for shown, value in choices)
        return f'<label>{label} <select name="{name}">{options}</select></label>'

    sides = "".join(
        f'<div class="duel-side"><b>{name}</b>{select(f"model{at}", "Model", models)}{select(f"adapter{at}", "Adapter", adapters[at:] + adapters[:at])}</div>'
        for at, name in enumerate(("To be found", "The other"))
    )
    return f"""<details class="more"><summary>Let two models of your own play</summary><form data-form="duel">
<p>Both answer the same questions, one after the other, unseen; then you guess. Ten questions take some minutes on a laptop.</p>{sides}
<label>Your own questions, one a line (empty: those of the starter pack) <textarea name="prompts" rows="3"></textarea></label><button>Let them answer</button></form></details>"""


def working(text: str, fraction: float | None, may_stop: bool) -> str:
    """Something takes a while."""
    bar = f'<progress value="{fraction:.3f}"></progress>' if fraction is not None else "<progress></progress>"
    stop = '<button type="button" data-act="stop">Stop</button>' if may_stop else ""
    return f'<div class="working"><p role="status">{escape(text)}</p>{bar}{stop}</div>'


def dealt(shown: Dealt) -> str:
    """A round before its guess."""
    sure = "".join(
        f'<button type="button" data-confidence="{level}"><kbd>{at}</kbd>{level}%<small>{SURE[level]}</small></button>'
        for at, level in enumerate(CONFIDENCES, 1)
    )
    better = "".join(
        f'<button type="button" data-preference="{value}"><kbd>{key}</kbd>{text}</button>' for value, (text, key) in PREFERENCES.items()
    )
    which = "".join(f'<button type="button" data-guess="{side}"><kbd>{name}</kbd>{name}</button>' for side, name in SIDES.items())
    skip = '<button type="button" data-act="skip"><kbd>S</kbd>Skip</button>' if shown.can_skip else ""
    return f"""<div class="round" data-round="{shown.round}" data-game="{shown.game}">{_head(shown.number, shown.of, shown.so_far, shown.question.category)}
<p class="question">{escape(shown.question.text)}</p>{_sides(shown.left, shown.right)}
<div class="asks"><div class="ask" data-step="guess" role="group" aria-label="Which one is {escape(shown.found)}?"><b>Which one is {escape(shown.found)}?</b><span class="picks">{which}</span></div>
<div class="ask" data-step="confidence" role="group" aria-label="How sure are you?"><b>How sure are you?</b><span class="picks">{sure}</span></div>
<div class="ask" data-step="preference" role="group" aria-label="Which one is better?"><b>Which one is better?</b><span class="picks">{better}</span></div>
<div class="last">{skip}<button type="button" data-act="undo" disabled><kbd>U</kbd>Undo</button><button type="button" data-act="reveal" class="primary" disabled><kbd>Enter</kbd>Reveal</button>
<button type="button" data-act="leave" class="quiet">End the game</button></div></div></div>"""


def reveal(shown: Reveal) -> str:
    """A round after its guess."""
    round = shown.dealt
    whose = {"left": shown.guess.left, "right": shown.guess.right}
    picked = SIDES[shown.guess.guess]
    if shown.guess.catch:
        said = f"Neither would have been wrong: both are {shown.guess.left}'s."
    else:
        said = f"{'Right' if shown.guess.correct else 'Wrong'}: {picked} is {whose[shown.guess.guess]}'s."
    kind = "catch" if shown.guess.catch else "right" if shown.guess.correct else "wrong"
    notes = [f"It does not count: {shown.counts}."] if shown.counts else []
    facts = []
    if shown.verdicts:
        facts.append(("GPT-4", " ".join(shown.verdicts)))
    facts.append(
        (
            "What gave it away",
            " ".join(f"{cue[0].upper()}{cue[1:]}" for cue in shown.cues) or "Nothing in style alone: length, form and ending are alike.",
        )
    )
    changes = [f"{SIDES[side]} {', and it '.join(each)}." for side, each in zip(SIDES, shown.changes, strict=True) if each]
    if changes:
        facts.append(("What fair mode changed", " ".join(changes)))
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    on = "See your score" if shown.last else "Next"
    return f"""<div class="revealed" data-game="{round.game}">{_head(round.number, round.of, round.so_far, round.question.category)}
<p class="question">{escape(round.question.text)}</p><p class="outcome {kind}" role="status"><b>{escape(said)}</b> {escape(" ".join(notes))}</p>
{_sides(round.left, round.right, whose)}<dl class="facts">{rows}</dl>
<div class="last"><button type="button" data-act="{"card" if shown.last else "next"}" class="primary"><kbd>Enter</kbd>{on}</button>
<button type="button" data-act="leave" class="quiet">End the game</button></div></div>"""


def card(result: Result, picture: bytes, replay: str) -> str:
    """The score card: words first, figures under them."""
    mine, rival = result.card, result.rival
    against = ""
    if rival:
        name = rival.player or "Your friend"
        against = f'<p class="rival">{escape(name)} got {rival.right} of the {rival.of} that count for you both, you {rival.mine}.</p>'
    rows = [
        ("Right", f"{mine.right.k} of {mine.right.n}", _within(mine.right)),
        (
            "Exact p against a coin",
            "" if mine.p is None else f"{mine.p:.3g}",
            "one-sided, before any look at where to stop" if mine.finished else "unfinished",
        ),
        ("d′", "" if mine.d_prime is None else f"{mine.d_prime:.2f}", "0 is chance; 1 is 76% right"),
        ("Brier score of your confidence", "" if mine.brier is None else f"{mine.brier:.3f}", "0.25 for always saying 50%; less is better"),
        ("Picked the left one", _count(mine.left), _within(mine.left)),
        ("Took the longer for the other's", _count(mine.longer), _within(mine.longer)),
        ("Longest streak", str(mine.streak), ""),
        *((f"Liked {name} better", _count(each), _within(each)) for name, each in mine.preferred.items() if each.n),
    ]
    if mine.catches[1]:
        rows.append(("Catch rounds said to be a coin's toss", f"{mine.catches[0]} of {mine.catches[1]}", ""))
    if mine.aside:
        rows.append(("Guesses that do not count", str(mine.aside), "seen before, or catch rounds"))
    figures = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td><td>{escape(note)}</td></tr>" for name, value, note in rows
    )
    image = base64.b64encode(picture).decode()
    file = base64.b64encode(replay.encode()).decode() if replay else ""
    saves = f'<a class="button" download="guanaco-score.png" href="data:image/png;base64,{image}">Save the picture</a>'
    if file:
        saves += (
            f'<a class="button" download="guanaco-replay.json" href="data:application/json;base64,{file}">Save the replay for a friend</a>'
        )
    return f"""<div class="card" data-game="{result.game.game}"><h2>{escape(f"{mine.right.k} of {mine.right.n}")}</h2><p class="lead" role="status">{escape(mine.words)}</p>{against}
<img alt="Score card to share" src="data:image/png;base64,{image}"><div class="last">{saves}<button type="button" data-act="again" class="primary"><kbd>Enter</kbd>Play again</button></div>
<table class="figures"><caption>In figures</caption><tbody>{figures}</tbody></table>
{_table("Against the bots", ("bot", "right", "how it plays"), [(bot, f"{count} of {mine.right.n}", BOTS[bot].format(other=result.deck.systems[1])) for bot, count in mine.bots.items()])}
{_table("Calibration", ("you said", "you were right", "95% within"), [(f"{level}%", _count(each), _within(each)) for level, each in mine.calibration.items()])}
{_table("By category", ("category", "right", "95% within"), [(name, _count(each), _within(each)) for name, each in mine.categories.items()])}</div>"""


def _head(number: int, of: int, so_far: tuple[int, int], category: str) -> str:
    counted = f"{so_far[0]} of {so_far[1]} right so far" if so_far[1] else ""
    shown = " · ".join(filter(None, (f"Round {number} of {of}", category, counted)))
    return f'<div class="round-head"><span>{escape(shown)}</span><progress max="{of}" value="{number - 1}" aria-label="Rounds played"></progress></div>'


def _sides(left: str, right: str, whose: dict[str, str] | None = None) -> str:
    """Both answers, by one renderer."""
    shown = ""
    for side, text in zip(SIDES, (left, right), strict=True):
        title = f"{SIDES[side]} · {whose[side]}" if whose else SIDES[side]
        body = "".join(f'<div class="block">{block}</div>' for block in markdown.blocks(text))
        shown += f'<section class="answer" data-side="{side}" aria-label="Answer {SIDES[side]}"><h3>{escape(title)}</h3><div class="turn bot"><div class="body">{body}</div></div></section>'
    return f'<div class="answers">{shown}</div>'


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th scope=col>{escape(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f'<table class="figures"><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _count(share: Share) -> str:
    return f"{share.k} of {share.n}" if share.n else "–"


def _within(share: Share) -> str:
    return "" if share.low is None else f"{share.low:.0%} – {share.high:.0%} (Wilson, 95%)"


def facts(card: Card) -> dict:
    """The figures of a card for whoever calls the endpoint."""
    return {"right": card.right.k, "of": card.right.n, "p": card.p, "finished": card.finished, "words": card.words}
