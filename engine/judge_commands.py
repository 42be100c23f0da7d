"""Answers made and judged, in the terminal. `evaluate generate`: a model answers the published prompts or a file; `judge`: a model
that another server runs compares such answers."""

import contextlib
import functools
import json
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from engine import models
from engine.backends import open_backend
from engine.backends.remote import connected
from engine.blend import NO_ADAPTER, Blend
from engine.chat import stream
from engine.errors import BadInput, EngineError
from engine.evaluate import generations, instructions, judgements, relative
from engine.evaluate import judge as judging
from engine.evaluate.generations import SETS, Made
from engine.evaluate.instructions import Kind
from engine.evaluate.judge import Judge, Judged, Judging, Plan
from engine.evaluate.judgements import Summary
from engine.evaluate.relative import Rated
from engine.events import Progress
from engine.game import answer_files, published
from engine.game.scoring import Share
from engine.paths import public_name
from engine.settings import BackendName, ChatSettings, Layout, LoadSettings, Quantization, load_settings
from engine.telling import are, counted
from engine.terminal import AsJson, agreed, log, report

_DEFAULTS = ChatSettings()
_DATA = f"{' or '.join(SETS)}: the published prompts, fetched once; or a file of question_id, text, category (JSON Lines)."


def _help(name: str, of: type = LoadSettings) -> str:
    return of.model_fields[name].description


def generate(
    out: Annotated[Path, typer.Option(help="The file of answers, something.jsonl. One that was begun is gone on with.")],
    data: Annotated[str, typer.Option(help=_DATA)] = "vicuna",
    model: Annotated[str, typer.Option(help="A model id, a Hub id, a folder or a GGUF file.")] = models.STARTER,
    adapter: Annotated[str, typer.Option(help="none, an adapter id, a run, a Hub id or a folder.")] = NO_ADAPTER,
    name: Annotated[str, typer.Option(help="What the game and the ratings call it; without it model and adapter.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many questions, spread evenly over the file.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answers.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, max=2, help=_help("temperature", ChatSettings))] = _DEFAULTS.temperature,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help=_help("top_p", ChatSettings))] = _DEFAULTS.top_p,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=4096, help=_help("max_new_tokens", ChatSettings))] = _DEFAULTS.max_new_tokens,
    backend: Annotated[BackendName, typer.Option(help=_help("backend"))] = BackendName.auto,
    base_url: Annotated[str, typer.Option(help=_help("base_url"))] = "",
    api_key_env: Annotated[str, typer.Option(help=_help("api_key_env"))] = "",
    layout: Annotated[Layout, typer.Option(help=_help("layout"))] = Layout.sharper,
    quantization: Annotated[Quantization | None, typer.Option(help=_help("quantization"))] = None,
    as_json: AsJson = False,
) -> None:
    """Let a model answer questions; the answers can be played in the blind game, and judged. A killed run goes on where it ended."""
    settings = ChatSettings(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    load = load_settings(backend, base_url, api_key_env, quantization, layout)
    spec, blend = models.resolve(model, load), Blend.of([adapter])
    asked = generations.spread(generations.questions(data, report), limit)
    opened = open_backend(spec, load, report)
    try:
        for each in blend.adapters:
            opened.attach(each)
        loaded = opened.loaded
        about = {
            "model": public_name(loaded.model),
            "adapter": blend.label or NO_ADAPTER,
            "backend": loaded.backend,
            "quantization": loaded.quantization,
            "weights": opened.weights,
            "adapter_sha256": opened.adapter_weights(blend),
        }
        called = name or (f"{about['model']} with {blend.label}" if blend.parts else about["model"])
        called = called.replace(":", " ")  # in published files what follows a colon is a version, and no part of the name
        with _written(out), _told_of_ctrl_c(lambda: None) as pressed:
            chat = functools.partial(stream, opened, stop=pressed.is_set, blend=blend, cold=True)
            for each in generations.generate(chat, out, called, asked, settings, about, pressed.is_set):
                match each:
                    case Progress():
                        report(each)
                    case Made():
                        made = each
        if pressed.is_set() and made.answers < len(asked):
            log(f"Stopped. What was answered is in {out}; the same command goes on with it.")
            raise typer.Exit(1)
    finally:
        opened.close()
    if as_json:
        print(json.dumps({"out": str(out), "answers": made.answers, "new": made.new, "name": called, **about}, ensure_ascii=False))
        return
    print(f"{are(made.answers, 'answer')} in {out}, {made.new} of them new.")


def judge(
    answers: Annotated[
        list[str],
        typer.Argument(
            metavar="ANSWERS…",
            help=f"Two or more files of answers, or published ones by name: {', '.join(published.SYSTEMS)}.",
            show_default=False,
        ),
    ],
    base_url: Annotated[str, typer.Option(help="Where the judge's OpenAI-compatible server is, e.g. https://api.openai.com/v1.")],
    judge_model: Annotated[str, typer.Option(help="What that server calls the judge.")],
    api_key_env: Annotated[str, typer.Option(help="The name of the environment variable that holds its key.")] = "",
    kind: Annotated[
        Kind, typer.Option(help="threeclass: which answer is better, for Elo and Bradley-Terry. score: up to ten points for each.")
    ] = "threeclass",
    data: Annotated[str, typer.Option(help=f"What was answered. {_DATA}")] = "vicuna",
    reference: Annotated[str, typer.Option(help="Judge every system against this one alone, by its name, rather than all pairs.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many questions, spread evenly.")] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=32_768, help="The judge's longest answer in tokens; without it 1024, as published.", show_default=False),
    ] = None,
    price_in: Annotated[float | None, typer.Option(min=0, help="What a million tokens sent cost.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="What a million tokens of the judge's cost.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a server is used that has a key or a price.")] = False,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="How many comparisons are asked about at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds that the server may be silent.")] = 300,
    out: Annotated[
        Path | None, typer.Option(help="The folder of judgements; without it one that the leaderboard reads.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let a judge compare answers, each pair in both orders. What is judged is kept: the same command goes on where it ended."""
    load = load_settings(BackendName.remote, base_url, api_key_env, None)
    if len(answers) < 2:
        raise BadInput("A judge compares: name at least two files of answers, or published ones by name.")
    own = {each: answer_files.read(Path(each)) for each in answers if not _published(each)}  # before anything is fetched
    questions = {each.id: each for each in generations.questions(data, report)}
    instructed = instructions.read(kind, data, report, max_new_tokens)
    plan = judging.plan(
        [own[each] if each in own else published.answers(each, report) for each in answers], questions, instructed, kind, reference, limit
    )
    for note in plan.notes:
        log(note)
    out = out or judgements.folder(judge_model, data, kind)
    price = None if price_in is None and price_out is None else (price_in or 0.0, price_out or 0.0)
    with _written(out), judging.opened(plan, out, judge_model) as under_way:
        if under_way.missing:
            log(_estimate(under_way, price))
            client, _ = connected(load, timeout)
            asked = Judge(client, judge_model, threading.Event())
            paid = price is not None or api_key_env
            if paid and not yes and not agreed("Ask the judge?", "Nothing was asked. Add --yes to start."):
                log("Nothing was asked.")
                return
            asked.check()
            ended = _run(under_way, asked, parallel, out)
        else:
            ended = Judged(0, ())
        summary = judgements.summary(kind, under_way.rows)
        rated = _rated(kind, plan, under_way, reference)
    cost = _cost(price, summary.tokens_in, summary.tokens_out)
    if as_json:
        document = {"out": str(out), "judge": judge_model, "kind": kind, "new": ended.new, "failed": len(ended.failed)}
        print(json.dumps({**document, **asdict(summary), "cost": cost, **_figures(rated)}, ensure_ascii=False))
    else:
        _print(kind, summary, ended, out, cost, rated)
    if ended.failed:
        log(f"{counted(len(ended.failed), 'comparison')} came to nothing: {ended.failed[-1]} The same command asks again.")
        raise typer.Exit(1)


@contextlib.contextmanager
def _written(out: Path) -> Iterator[None]:
    """Say which place cannot be written where the system refuses it within the block."""
    try:
        yield
    except OSError as error:
        raise EngineError(f"{out} cannot be written: {error.strerror}. Choose another --out.") from error


def _published(named: str) -> bool:
    """Whether a published system is meant, and no file."""
    return named in published.SYSTEMS and not Path(named).exists()


def _run(under_way: Judging, asked: Judge, parallel: int, out: Path) -> Judged:
    with _told_of_ctrl_c(asked.halt) as pressed:
        try:
            for each in under_way.run(asked, parallel):
                match each:
                    case Progress():
                        report(each)
                    case Judged():
                        return each
        except EngineError:
            if not pressed.is_set():
                log(_kept(under_way, out))
                raise
    log(f"Stopped. {_kept(under_way, out)}")
    raise typer.Exit(1)


@contextlib.contextmanager
def _told_of_ctrl_c(halt: Callable[[], None]) -> Iterator[threading.Event]:
    """Within the block the first Ctrl-C sets what is given and calls `halt` in a thread of its own; raised wherever the program is, it
    could leave a lock held that threads wait for as it ends, or be lost in a callback of Python's own. A second one ends it at once."""
    pressed, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def press(number: int, frame: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)
        threading.Thread(target=halt, daemon=True).start()

    here = threading.current_thread() is threading.main_thread()
    if here:
        signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        if here:
            signal.signal(signal.SIGINT, before)


def _kept(under_way: Judging, out: Path) -> str:
    return f"{are(len(under_way.rows), 'judgement')} kept in {out}; the same command goes on with them."


def _estimate(under_way: Judging, price: tuple[float, float] | None) -> str:
    sent, most = judging.estimated(under_way.missing)
    cost = _cost(price, sent, most)
    priced = "" if cost is None else f": at most about {cost:,.2f}, by the prices given"
    return f"{counted(len(under_way.missing), 'judgement')} to make: about {sent:,} tokens sent, at most {most:,} come back{priced}."


def _cost(price: tuple[float, float] | None, sent: int, back: int) -> float | None:
    """In whatever the prices for a million tokens are in."""
    return None if price is None else (sent * price[0] + back * price[1]) / 1e6


def _rated(kind: Kind, plan: Plan, under_way: Judging, reference: str) -> Rated | None:
    """All systems by the reference's points, where points are given and there is a reference."""
    if kind != "score" or not reference:
        return None
    found = relative.rate(under_way.scores, reference)
    systems = dict.fromkeys(name for each in plan.comparisons for name in each.systems if name != reference)
    return replace(found, percents=found.percents | {name: None for name in systems if name not in found.percents})


def _figures(rated: Rated | None) -> dict:
    return {"percent_of_reference": rated.percents, "orders_left_out": rated.left_out} if rated else {"percent_of_reference": None}


def _print(kind: Kind, summary: Summary, ended: Judged, out: Path, cost: float | None, rated: Rated | None) -> None:
    print(f"{are(summary.judgements, 'judgement')} in {out}, {ended.new:,} of them new.")
    if summary.unparsed:
        cut = f", {counted(summary.cut_off, 'answer')} reached the judge's limit" if summary.cut_off else ""
        print(f"{summary.unparsed:,} hold no verdict{cut}.")
    print(f"The answer that stood first won {_share(summary.first)} decided judgements; half would be no favour.")
    print(f"Both orders ended alike for {_share(summary.same)} pairs.")
    if rated:
        for system, percent in rated.percents.items():
            print(f"{system}: " + ("no points to tell a percent by" if percent is None else f"{percent:.1f}% of the reference's points"))
        if rated.left_out:
            print(f"Orders in which the reference got no points, and which are left out: {rated.left_out}.")
    if summary.tokens_in or summary.tokens_out:
        print(
            f"{counted(summary.tokens_in, 'token')} sent, {summary.tokens_out:,} came back" + ("." if cost is None else f": {cost:,.2f}.")
        )
    if kind == "threeclass":
        print(f'Rate the systems: python -m engine elo "{out}"')


def _share(of: Share) -> str:
    return "0 of 0" if of.low is None else f"{of.k:,} of {of.n:,} ({of.k / of.n:.0%}, 95% within {of.low:.0%} – {of.high:.0%})"
