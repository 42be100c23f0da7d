"""What the wizard shows, as HTML: bases, rows, lengths, tokens, memory. Every text that comes from outside is escaped."""

import html
from collections.abc import Iterable, Sequence

from engine import destinations, fitting, hardware, pace, telling
from engine.data_files import BadRow
from engine.destinations import Exported
from engine.drafts import COMPARED_ROWS, COMPARED_TOKENS, Base
from engine.lens import Seen
from engine.memory import Plan
from engine.preview import Cutoff, First, Measured
from engine.probing import Probe
from engine.trying import Change
from ui.telling import told

_SHOWN_ROWS, _SHOWN_CHARS, _SHOWN_BAD = 8, 220, 5
# The colours of a memory bar, by the parts' names: greens what the base takes, ochres what the adapter does, reds what a pass does,
# blues what else there is. Within a family and between neighbours they differ in lightness, which all eyes see.
_COLOURS = {
    "weights": "#1f6f6b",
    "constants": "#6fc4bb",
    "embeddings": "#35918b",
    "unpacked": "#a9e0d9",
    "workspace": "#164f4c",
    "lora": "#8a5d12",
    "gradients": "#d9a94e",
    "optimizer": "#f0dcae",
    "activations": "#8f2f20",
    "logits": "#e39c8e",
    "holes": "#c25643",
    "casts": "#511418",
    "kv_cache": "#b9c6e8",
    "runtime": "#4a5f9a",
    "copies": "#8598cc",
}


def bases(found: Sequence[Base]) -> str:
    """The table of bases: what each needs here, and how long it takes, to be finetuned by its own recipe."""
    rows = "".join(
        f'<tr class="{"" if base.fits else "large"}"><td><b>{html.escape(base.title)}</b> <code>{html.escape(base.id)}</code></td>'
        f"<td>{gigabytes(base.need)}</td><td>{'fits' if base.fits else 'too large here'}</td><td>{html.escape(pace.duration_words(base.seconds))}</td>"
        f"<td>{'on disk' if base.on_disk else f'{base.fetch / 1e9:.1f} GB' if base.fetch else '?'}</td>"
        f"<td>{html.escape(base.licence)}{' · gated' if base.gated else ''}</td></tr>"
        for base in found
    )
    return (
        '<div class="scrolls" tabindex="0"><table><thead><tr><th>Base</th><th>Memory to finetune</th><th>Here</th>'
        f"<th>Time for {COMPARED_ROWS:,} rows</th><th>Download</th>"
        f"<th>Licence</th></tr></thead><tbody>{rows}</tbody></table></div>"
        f"<p>Time is for one pass over {COMPARED_ROWS:,} rows of {COMPARED_TOKENS} tokens on this machine, by the base's own recipe.</p>"
    )


def data(first: First) -> str:
    """Format, reason, the first rows and the bad ones."""
    rows = "".join(
        f"<tr><td>{line}</td><td>{_short(question)}</td><td>{_short(answer)}</td><td>{messages}</td></tr>"
        for line, _, question, answer, messages in first.table()[:_SHOWN_ROWS]
    )
    reason = "" if first.unsure else f'<p class="good"><b>{html.escape(first.format)}</b>: {html.escape(first.reason)}.</p>'
    table = (
        f'<div class="scrolls" tabindex="0"><table><thead><tr><th>{html.escape(first.unit.capitalize())}</th><th>Question</th><th>Answer</th><th>Messages</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        if rows
        else ""
    )
    return f"{reason}{_columns(first)}{table}"


def _columns(first: First) -> str:
    if not first.unsure:
        return ""
    there = ", ".join(f"<code>{html.escape(name)}</code>" for name in first.columns)
    return f'<p class="wrong">{html.escape(first.reason)}</p><p>The columns there are: {there}. Choose a format below and say which of them holds what.</p>'


def bad_rows(bad: Sequence[BadRow], unit: str, skipped: bool) -> str:
    """How many rows cannot be read, and why; whether the run skips them or stops."""
    if not bad:
        return ""
    shown = "".join(f"<li>{html.escape(unit)} {each.line}: {html.escape(each.reason)}</li>" for each in bad[:_SHOWN_BAD])
    more = f"<li>and {len(bad) - _SHOWN_BAD:,} more</li>" if len(bad) > _SHOWN_BAD else ""
    then = (
        "will be left out; to have them stop the run instead, untick “Skip bad rows” in step 4, under “Advanced”"
        if skipped
        else "will stop the run; to leave them out, tick “Skip bad rows” in step 4, under “Advanced”"
    )
    count = "1 row" if len(bad) == 1 else f"{len(bad):,} rows"
    return f'<div class="bad"><p class="wrong">{count} cannot be read and {then}:</p><ul>{shown}{more}</ul></div>'


def _short(text: str) -> str:
    text = " ".join(text.split())
    return html.escape(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")


def lengths(found: Measured, cut: Cutoff, limit: int, means: str) -> str:
    """The histogram of rows by tokens with the cutoff drawn in, and what it costs."""
    bins = found.histogram()
    most = max((count for _, _, count in bins), default=1)
    shortest, edge = (bins[0][0], bins[-1][1]) if bins else (0, 1)
    longest = max((shape.tokens for shape in found.shapes if shape), default=1)
    width = 600 / max(1, len(bins))
    bars = "".join(
        f'<rect x="{at * width + 1:.1f}" y="{110 - 100 * count / most:.1f}" width="{max(1, width - 2):.1f}" height="{100 * count / most:.1f}" '
        f'class="{"cut" if high > limit else ""}"><title>{low}–{high} tokens: {telling.counted(count, "row")}</title></rect>'
        for at, (low, high, count) in enumerate(bins)
    )
    at = max(0.0, 600 * (limit + 1 - shortest) / (edge + 1 - shortest))
    line = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="112"/>' if limit < longest else ""
    learnable = cut.kept + cut.lost
    lost = f", {cut.lost:,} of {learnable:,} tokens to learn {_are(cut.lost)} lost ({cut.lost / learnable:.1%})" if cut.lost else ""
    without = f"{telling.counted(cut.unlearnable, 'row')} {'has' if cut.unlearnable == 1 else 'have'} no answer within the limit"
    them = "it" if cut.unlearnable == 1 else "them"
    unlearnable = f" {without} and {_are(cut.unlearnable)} left out; a higher limit keeps {them}." if cut.unlearnable else ""
    rows = cut.rows + cut.unlearnable
    said = f"{cut.cut:,} of {telling.counted(rows, 'row')} {_are(1 if rows == 1 else cut.cut)} cut{lost}.{unlearnable}"
    tokens = sorted(shape.tokens for shape in found.shapes if shape)
    spread = (
        f"From {tokens[0]:,} to {tokens[-1]:,} tokens, half of the rows up to {tokens[(len(tokens) - 1) // 2]:,}; the limit is {limit:,}."
        if tokens
        else ""
    )
    return (
        f'<svg viewBox="0 0 600 130" role="img" aria-label="Rows by length in tokens. {spread} {html.escape(said)}">{bars}'
        f'{line}<text x="0" y="127">{shortest:,}</text><text x="600" y="127" text-anchor="end">{longest:,} tokens</text></svg>'
        f"<p>{spread} {said}</p><p><b>{html.escape(means)}</b></p>"
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def counted(so_far: Measured) -> str:
    """How far a count is."""
    return f"{so_far.rows:,} of {len(so_far.data.conversations):,} rows are counted."


def lens(rows: Iterable[tuple[int, Sequence[Seen]]]) -> str:
    """Rows as the model will see them: what is learnt, what is only read, what is cut off, where an answer ends."""
    return "".join(f'<section class="lens"><h4>Row {number}</h4><p>{"".join(map(_token, tokens))}</p></section>' for number, tokens in rows)


def _token(seen: Seen) -> str:
    text = html.escape(seen.text).replace("\n", '<span class="newline">⏎</span>\n')
    kind = f"{seen.state} end" if seen.end else seen.state
    return f'<span class="{kind}" title="{seen.id}">{text}</span>'


def memory_bars(plans: dict[str, Plan], probe: Probe | None) -> str:
    """A stacked bar for each machine, on one scale of its own: how full it is."""
    names = {part.name: part.title for plan in plans.values() for part in plan.parts if part.bytes}
    peak = probe.whole_peak if probe else None
    legend = "".join(f'<li><i style="background:{_COLOURS[name]}"></i>{html.escape(title)}</li>' for name, title in names.items())
    if peak:
        legend += f'<li><i class="peak"></i>Measured by the probe: {gigabytes(peak)} at most</li>'
    if any(plan.total > plan.have for plan in plans.values()):
        legend += '<li><i class="limit"></i>What that machine has</li>'
    bars = "".join(_bar(machine, plan, peak if machine == fitting.THIS_MACHINE else None) for machine, plan in plans.items())
    measured = told(probe.text, "good" if probe.status == "done" else "wrong") if probe else ""
    return f'{measured}<div class="bars">{bars}</div><ul class="legend">{legend}</ul>'


def _bar(machine: str, plan: Plan, measured: int | None) -> str:
    whole = max(plan.have, plan.total)
    pieces = "".join(
        f'<i style="width:{100 * part.bytes / whole:.2f}%;background:{_COLOURS[part.name]}" title="{html.escape(part.title)}: {gigabytes(part.bytes)}"></i>'
        for part in plan.parts
        if part.bytes
    )
    verdict = "fits" if plan.fits else "does not fit"
    paged = f", {gigabytes(plan.total - plan.resident)} of it can be paged out" if plan.total > plan.resident else ""
    said = f"{gigabytes(plan.total)} of {gigabytes(plan.have)}: {verdict}{paged}"
    peak = (
        f'<b class="peak" style="left:{100 * min(measured, whole) / whole:.2f}%" title="measured: {gigabytes(measured)}"></b>'
        if measured
        else ""
    )
    parts = ", ".join(f"{part.title} {gigabytes(part.bytes)}" for part in plan.parts if part.bytes)
    heard = f"{machine}: {said}. {parts}." + (f" Measured at the peak: {gigabytes(measured)}." if measured else "")
    limit = f'<b class="limit" style="left:{100 * plan.have / whole:.2f}%"></b>' if plan.total > plan.have else ""
    return (
        f'<div class="machine {"" if plan.fits else "large"}"><span>{html.escape(machine)}</span>'
        f'<div class="bar" role="img" aria-label="{html.escape(heard)}">{pieces}{limit}{peak}</div><span>{said}</span></div>'
    )


def changes(found: Sequence[Change]) -> str:
    """Same-prompt answers before and after, the proof that the two sides are not one."""
    if not found:
        return told("This run gave no sample answers. Sample prompts in step 4 show what changes.")
    differ = sum(each.before != each.after for each in found)
    rows = "".join(
        f"<tr><td>{html.escape(each.prompt)}</td><td>{html.escape(each.before)}</td><td>{html.escape(each.after)}</td></tr>"
        for each in found
    )
    kind = "good" if differ else "wrong"
    said = told(
        f"{differ} of {len(found)} sample answers differ from those before training. None is drawn at random: a difference is the adapter's.",
        kind,
    )
    return f'{said}<div class="scrolls" tabindex="0"><table><thead><tr><th>Asked</th><th>Before training</th><th>After</th></tr></thead><tbody>{rows}</tbody></table></div>'


def exported(found: Exported, offered: Sequence[tuple[str, str]]) -> str:
    """What an export gave: notes, downloads as address and name, what was measured of it, its files."""
    links = downloads(offered)
    if found.kind == "hub":
        address = html.escape(found.place)
        links = f'<p class="links"><a href="{address}" target="_blank" rel="noopener noreferrer">{address}</a></p>'
    size = destinations.size_text(sum(found.files.values()))
    head = told(f"Exported as {found.kind}: {telling.counted(len(found.files), 'file')}, {size}.", "good") + "".join(map(told, found.notes))
    figures = [(f"{of}: {name.replace('_', ' ')}", f"{value:,}") for of, numbers in found.checks.items() for name, value in numbers.items()]
    files = [(name, destinations.size_text(count)) for name, count in found.files.items()]
    tables = "".join(_figures(caption, rows) for caption, rows in (("Files", files), ("Checked", figures)) if rows)
    return f'{head}{links}<div class="scrolls" tabindex="0">{tables}</div>'


def downloads(offered: Sequence[tuple[str, str]]) -> str:
    """Links to downloads, given as address and name."""
    links = (
        f'<a href="{html.escape(address)}" download="{html.escape(name)}">Download {html.escape(name)}</a>' for address, name in offered
    )
    return f'<p class="links">{"".join(links)}</p>'


def _figures(caption: str, rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>' for name, value in rows)
    return f"<table><caption>{caption}</caption><tbody>{body}</tbody></table>"


READING = told("The rows are being read.")


def gigabytes(number: int) -> str:
    return f"{number / hardware.GIB:.1f} GB" if number >= hardware.GIB / 10 else f"{number / 2**20:.0f} MB"
