"""Words for people: what a training says, on a terminal and in the cells of a notebook; how many there are of something."""

from engine.events import Adjusted, Evaluated, Event, Notice, Queued, Sample, Saved, Started, Step


def told(event: Event) -> str:
    """The line of an event; empty for progress, steps and the end, which are shown in other ways."""
    match event:
        case Notice() | Adjusted():
            return event.text
        case Queued():
            return f"Waiting: {event.holder} has the machine; place {event.place} in line."
        case Started():
            begins = f"Going on after step {event.resumed_from}" if event.resumed_from else "Beginning"
            return (
                f"{begins}: {counted(event.steps, 'step')} on {counted(event.rows, 'row')}, {event.held_out:,} held out; {event.parameters / 1e6:.2f}M parameters learn, "
                f"on {event.device}, base {event.quantization}, computing in {event.dtype}"
            )
        case Evaluated():
            return f"step {event.step}: held-out loss {event.loss:.4f}"
        case Sample():
            return f"step {event.step}: {event.prompt}\n  {' '.join(event.text.split())}"
        case Saved():
            return f"step {event.step}: saved, {event.bytes / 1e6:.1f} MB in {event.seconds:.1f} s"
    return ""


def figures(step: Step) -> str:
    """Loss, speed and time left."""
    return f"loss {step.loss:.3f} · {step.tokens_per_second:.0f} tokens/s · {duration(step.eta_seconds)} left"


def counted(count: int, what: str) -> str:
    """So many of something whose plural has an s: `1 row`, `2,000 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def are(count: int, what: str) -> str:
    """The same as the beginning of a sentence: `1 row is`, `2,000 rows are`."""
    return f"{counted(count, what)} {'is' if count == 1 else 'are'}"


def duration(seconds: float) -> str:
    """Hours where there are any, minutes and seconds, as in 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
