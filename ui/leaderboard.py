"""The tab of ratings: who answers better, by GPT-4's published judgements, by those of judges asked here, or by this app's players, and
why 1022 is no fact."""

import math
import secrets
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr

from engine import pictures
from engine.errors import BadInput, EngineError
from engine.evaluate import audit, judgements, leaderboards, matches, paper, relative
from engine.evaluate.instructions import Kind
from engine.evaluate.matches import Matches
from engine.evaluate.relative import Rated
from engine.game import published
from engine.services import NO_ANSWERS, Services
from ui import form

TAB = "leaderboard"
AWAY = ", by about 45 points each time"
METHODS = [("Bradley-Terry", "bt"), ("Elo, as in the paper", "elo"), ("Percent of ChatGPT", "relative")]
SOURCES = [("GPT-4's published judgements", "published"), ("This app's players", "votes")]
MISSING = f"GPT-4's published judgements are not here. {NO_ANSWERS}"


def tab(services: Services, mine: gr.Tab) -> None:
    """Draw the tab inside the Blocks that are open. `mine` is its place."""
    with gr.Column(elem_id="leaderboard"):
        with gr.Row(elem_id="rating-choices"):
            source = gr.Radio(_sources(), value="published", label="Judgements")
            method = gr.Radio(METHODS, value="bt", label="Method")
            position = gr.Checkbox(False, label="Take out which answer stood first", elem_id="rate-position")
            length = gr.Checkbox(False, label="Take out which answer is longer", elem_id="rate-length")
        rate = gr.Button("Rate", variant="primary", elem_id="rate")
        plot = gr.Plot(show_label=False, container=False, elem_id="rating-plot")
        table = gr.HTML(elem_id="ratings", apply_default_css=False)
        with gr.Row():
            order = gr.Button("Why 1022? Draw one random order", elem_id="one-order")
            many = gr.Button("… then many, until the mean settles", elem_id="many-orders")
            check = gr.Button("Audit the paper's figures", elem_id="audit")
        drawn = gr.Plot(show_label=False, container=False, elem_id="order-plot")
        said = gr.HTML(elem_id="order-text", apply_default_css=False)
        players = gr.HTML(elem_id="players", apply_default_css=False)
    boards = Boards(services)
    chosen = [source, method, position, length]
    # Gradio's queue shows what fails; all of it takes seconds at most.
    working = {"concurrency_limit": 2, "concurrency_id": "ratings", "show_progress": "minimal"}
    rated = [plot, table, players]
    opened = mine.select(boards.open, source, [source, check], api_visibility="private", **working)
    shown = opened.success(boards.show, chosen, rated, api_visibility="private", **working)
    choices = [rate.click, *(each.input for each in chosen)]
    # Of two quick choices the later one counts, and what was asked for as the tab opened is not drawn over either.
    rating = gr.on(choices, boards.rate, chosen, rated, cancels=shown, trigger_mode="always_last", api_name="rate_systems", **working)
    # Where the earlier one is refused Gradio forgets the later one.
    rating.failure(boards.show, chosen, rated, api_visibility="private", **working)
    order.click(boards.one_order, source, [drawn, said], api_name="one_order", **working)
    many.click(boards.settle, source, [drawn, said], api_name="many_orders", **working)
    check.click(boards.audit, None, said, api_name="audit", **working)


class Boards:
    """What the tab's events show."""

    def __init__(self, services: Services):
        self._services = services
        self._kept: dict[tuple, Any] = {}

    def open(self, source: str) -> list:
        """The judgements there are by now. On a public host what is not there is said and cannot be chosen."""
        missing = self._missing()
        offered = [each for each in _sources() if not (missing and each[1] == "published")]
        # A source that is offered stays, also where another one was chosen meanwhile.
        turned = {} if source in [value for _, value in offered] else {"value": offered[0][1]}
        return [gr.Radio(offered, info=MISSING if missing else None, **turned), gr.Button(visible=not missing)]

    def show(self, *chosen) -> list:
        """The ratings as they are chosen, or what is missing for them."""
        try:
            return self._rated(*chosen)
        except EngineError as error:
            return [None, f"<p>{escape(str(error))}</p>", self._players()]

    def rate(self, source: str, method: str, position: bool, length: bool) -> list:
        with form.explained():
            return self._rated(source, method, position, length)

    def _rated(self, source: str, method: str, position: bool, length: bool) -> list:
        if method == "relative":
            if source == "votes":
                raise BadInput("A percent of ChatGPT needs points, and players give preferences: choose Bradley-Terry or Elo for them.")
            scores = self._at_hand().scores() if source == "published" else matches.read_scores([_folder(source, "score")])
            reference = relative.reference(scores)
            return [None, _relative(relative.rate(scores, reference), reference), self._players()]
        boards = self._boards(source, "elo" if method == "elo" else "bt", bool(position), bool(length))
        tables = "".join(_ratings(board, source == "published") for board in boards)
        if len(boards) > 1:
            tables = "<p>These systems are in groups that never met, so each group has a scale of its own.</p>" + tables
        largest = max(boards, key=lambda board: len(board.names))
        return [pictures.ratings(largest.names, largest.ratings, largest.low, largest.high), tables, self._players()]

    def _boards(self, source: str, method: leaderboards.Method, position: bool, length: bool) -> list[leaderboards.Board]:
        key = source, method, position, length
        if source not in ("published", "votes"):  # files of the host's owner, which may change
            return leaderboards.rated(self._matches(source), *key[1:])
        return self._once(key, lambda: leaderboards.rated(self._matches(source), *key[1:]))

    def _players(self) -> str:
        return self._once(("votes", "players"), lambda: _players(leaderboards.players(self._services.game.records.guesses())))

    def _once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What is made of the judgements that `key` begins with, kept: the published ones never change, the players' until one more
        is there."""
        latest = self._services.game.records.newest() if key[0] == "votes" else 0
        made_of, made = self._kept.get(key, (None, None))
        if made_of != latest:
            made = make()
            self._kept[key] = latest, made
        return made

    def one_order(self, source: str) -> Iterator[list]:
        with form.explained():
            found = self._matches(source)
        seed = secrets.randbits(31)
        for path in leaderboards.one_order(found, seed):
            yield [pictures.order(found.systems, path), ""]
        yield [
            pictures.order(found.systems, path),
            f"<p>One order of {len(path) - 1:,} matches, drawn at random. Draw again: it ends elsewhere{AWAY * (source == 'published')}.</p>",
        ]

    def settle(self, source: str) -> Iterator[list]:
        with form.explained():
            found = self._matches(source)
        for orders, means in leaderboards.settling(found, secrets.randbits(31)):
            yield [pictures.means(found.systems, means, orders), ""]
        yield [
            pictures.means(found.systems, means, orders),
            f"<p>The mean over {orders[-1]:,} orders stands still within a point. That is all a “±1” as in the paper says: the ratings "
            f"themselves are no surer than {len(found.prompts):,} questions make them (see the bars of Bradley-Terry).</p>",
        ]

    def audit(self) -> str:
        with form.explained():
            lines = audit.lines(self._at_hand().ratings(), self._at_hand().scores())
        rows = "".join(
            f"<tr><th scope=row>{escape(line.what)}</th><td>{escape(line.published)}</td><td>{escape(line.ours)}</td>"
            f"<td>{'✓' if line.agrees else '≠'}</td><td>{escape(line.note)}</td></tr>"
            for line in lines
        )
        heads = "".join(f"<th scope=col>{name}</th>" for name in ("figure", "published", "here", "", "what to make of it"))
        return f'<table class="figures"><caption>Audit</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'

    def _matches(self, source: str) -> Matches:
        if source == "votes":
            return leaderboards.votes(self._services.game.records.guesses())
        return self._at_hand().ratings() if source == "published" else matches.read([_folder(source, "threeclass")])

    def _at_hand(self) -> ModuleType:
        """What reads the published files. Raises BadInput where they are missing for good."""
        if self._missing():
            raise BadInput(MISSING)
        return published

    def _missing(self) -> bool:
        """Whether the published files are not on this public host, where no visitor can fetch them."""
        return self._services.read_only and not published.available()


def _sources() -> list[tuple[str, str]]:
    """What judgements can be chosen: the published ones, those of judges that were asked here, by judge and questions, the players'."""
    return [*SOURCES[:1], *((f"Judged by {name}", name) for name in judgements.kept()), *SOURCES[1:]]


def _folder(source: str, kind: Kind) -> Path:
    """Where judgements of a kind are. Raises BadInput where there are none."""
    folder = judgements.kept().get(source, {}).get(kind)
    if folder is None:
        raise BadInput(f"There are no such judgements by {source}: `python -m engine judge … --kind {kind}` makes them.")
    return folder


def _ratings(board: leaderboards.Board, with_card: bool) -> str:
    """The ratings, beside the columns of the model card where it is about the same systems."""
    card = {row.system: row for row in paper.CARD} if with_card else {}
    heads = ["system", "rating", "95% within"]
    if card:
        heads += ["GPT-4, Vicuna (published)", "human (published)", "OpenAssistant (published)", "median rank (published)"]
    rows = ""
    for name, rating, low, high in zip(board.names, board.ratings, board.low, board.high, strict=True):
        cells = [f"{rating:.0f}", "too few to say" if math.isnan(low) else f"{low:.0f} – {high:.0f}"]
        if card:
            row = card.get(name)
            cells += (
                [
                    f"{row.vicuna} (#{row.vicuna_rank})",
                    f"{row.human} (#{row.human_rank})",
                    _ranked(row.open_assistant, row.open_assistant_rank),
                    str(row.median_rank),
                ]
                if row
                else ["–"] * 4
            )
        rows += f"<tr><th scope=row>{escape(name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    head = "".join(f"<th scope=col>{each}</th>" for each in heads)
    notes = f"<p>{escape(' '.join(board.notes))}</p>"
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes}'


def _ranked(rating: int | None, rank: int | None) -> str:
    return "–" if rating is None else f"{rating} (#{rank})"


def _relative(rated: Rated, reference: str) -> str:
    """Percents of a reference's points, beside the published ones where those are of the same."""
    published_ones = paper.RELATIVE if reference == relative.REFERENCE else {}
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{'–' if percent is None else f'{percent:.1f}%'}</td><td>{published_ones.get(name, '–')}</td></tr>"
        for name, percent in rated.percents.items()
    )
    left_out = f" Orders in which {escape(reference)} got no points, and which are left out: {rated.left_out}." if rated.left_out else ""
    return (
        f'<table class="figures"><thead><tr><th scope=col>system</th><th scope=col>percent of {escape(reference)}\'s points</th><th scope=col>published</th></tr>'
        f"</thead><tbody>{rows}</tbody></table><p>Points that the judge gave when it saw an answer beside {escape(reference)}'s, the mean of both orders.{left_out}</p>"
    )


def _players(players: list[leaderboards.Player]) -> str:
    if not players:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(each.name)}</th><td>{each.right.k} of {each.right.n}</td><td>{each.right.low:.0%} – {each.right.high:.0%}</td><td>{each.games}</td></tr>"
        for each in players
    )
    return (
        '<table class="figures"><caption>Players, by every guess that counts</caption><thead><tr><th scope=col>player</th><th scope=col>right</th>'
        f"<th scope=col>95% within</th><th scope=col>games</th></tr></thead><tbody>{rows}</tbody></table>"
    )
