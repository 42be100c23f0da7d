"""A settings class as form components, and values of those components as checked settings; what else forms share."""

import contextlib
import html
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import gradio as gr
from gradio.components import Component
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from engine.errors import BadInput, EngineError
from engine.settings import Settings

S = TypeVar("S", bound=Settings)
# How events that take no time run. Those that may fail pass through Gradio's queue, without which their messages are
# not shown; the others skip it.
QUICK = {"concurrency_limit": 8, "concurrency_id": "quick", "show_progress": "hidden"}
SILENT = {"queue": False, "show_progress": "hidden"}
# Events that somebody sets off by typing numbers: Gradio would answer one out of bounds, or none, with a message of its own.
AS_TYPED = {"preprocess": False}
# Beyond it a slider cannot be set to a whole number by hand.
_LONGEST_SLIDER = 4_096
# The line between two texts; one that is part of a text is written with a backslash more.
_BETWEEN = "---"
_LIKE_BETWEEN = re.compile(rf"^(\s*)(\\*)({_BETWEEN}\s*)$")


def components(settings: type[Settings], without: tuple[str, ...] = ()) -> list[Component]:
    """One component a field, in the order of the class, with its title, help, bounds and default."""
    return [_component(field) for name, field in settings.model_fields.items() if name not in without]


def values(settings: Settings, without: tuple[str, ...] = ()) -> list:
    """What the components of these settings show, in the order of `components`."""
    fields = type(settings).model_fields
    return [_written(fields[name], getattr(settings, name)) for name in fields if name not in without]


def message_box(label: str, placeholder: str, elem_id: str, autofocus: bool = False) -> gr.Textbox:
    """The box that a message is written into: one line that grows, in a row of class `composer`."""
    return gr.Textbox(
        "",
        label=label,
        show_label=False,
        container=False,
        placeholder=placeholder,
        lines=1,
        max_lines=8,
        autofocus=autofocus,
        elem_id=elem_id,
        elem_classes="box",
    )


def _component(field: FieldInfo) -> Component:
    kind, optional = _kind(field.annotation)
    default = None if field.is_required() else field.default
    common = {"label": field.title, "info": field.description, "value": _written(field, default)}
    if get_origin(kind) is Literal:
        return gr.Dropdown(choices=list(get_args(kind)), **common)
    if kind is bool:
        return gr.Checkbox(**common)
    if kind in (int, float):
        low, high = _bounds(field)
        step = 1 if kind is int else 0.01
        if optional or low is None or high is None or high > _LONGEST_SLIDER or round(default % step, 9) not in (0, step):
            least, most = _closed_bounds(field)  # a number may come as near to an open one as it likes
            return gr.Number(minimum=least, maximum=most, precision=0 if kind is int else None, **common)
        return gr.Slider(low, high, step=step, **common)
    if kind is str:
        return gr.Textbox(**common)
    if _holds_texts(field):
        common["info"] = f"{field.description} Each may have several lines; a line {_BETWEEN} stands between two."
    if kind is list or kind is dict:
        return gr.Textbox(lines=2, max_lines=8, **common)
    raise TypeError(f"no component for a setting of type {field.annotation}")


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The plain type of a field, and whether it may be empty. Several types are held by the one that can show all of them."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (UnionType, Union):
        kinds = [_kind(kind)[0] for kind in get_args(annotation) if kind is not NoneType]
        widest = next((kind for kind in (dict, list, float) if kind in kinds), kinds[0])
        return widest, len(kinds) < len(get_args(annotation))
    if get_origin(annotation) in (list, dict):
        return get_origin(annotation), False
    return annotation, False


def _holds_texts(field: FieldInfo) -> bool:
    """Whether a field is a list of texts; where a word may stand in place of the list, it is one of names."""
    return get_origin(field.annotation) is list


def _joined(texts: Sequence[str]) -> str:
    """Texts in one, as `_parted` takes them apart."""
    return f"\n{_BETWEEN}\n".join("\n".join(_LIKE_BETWEEN.sub(r"\1\\\2\3", line) for line in text.split("\n")) for text in texts)


def _parted(shown: str) -> list[str]:
    """The texts between lines of `_BETWEEN`, each whole; nothing between two of them is none."""
    texts: list[list[str]] = [[]]
    for line in shown.split("\n"):
        like = _LIKE_BETWEEN.fullmatch(line)
        if like and not like[2]:
            texts.append([])
        else:
            texts[-1].append(f"{like[1]}{like[2][1:]}{like[3]}" if like else line)
    return [text for lines in texts if (text := "\n".join(lines)).strip(" \t\r\n")]


def _written(field: FieldInfo, value: object) -> object:
    """A setting as its component shows it: names one a line, texts whole with a line between, tables one `key: value` a line."""
    if _holds_texts(field):
        return _joined(value or ())
    if _kind(field.annotation)[0] is list:
        return value if isinstance(value, str) else "\n".join(value or ())
    if _kind(field.annotation)[0] is dict:
        return "\n".join(f"{key}: {each}" for key, each in (value or {}).items())
    return value


def _taken(field: FieldInfo, value: object) -> object:
    """What a component's value says, for the settings class to check."""
    kind, optional = _kind(field.annotation)
    if kind is float and isinstance(value, float) and value.is_integer() and int in get_args(field.annotation):
        return int(value)  # a number of rows, not a share of them
    if _holds_texts(field) and isinstance(value, str):
        return _parted(value)
    if kind in (list, dict) and isinstance(value, str):
        lines = [line.strip() for line in value.splitlines() if line.strip()]
        if kind is list:
            words = [word for arm in get_args(field.annotation) if get_origin(arm) is Literal for word in get_args(arm)]
            return lines[0] if len(lines) == 1 and lines[0] in words else lines
        pairs = {key.strip(): rest.strip() for key, _, rest in (line.partition(":") for line in lines)}
        return pairs or (None if optional else {})
    return value


def _closed_bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    least = next((bound.ge for bound in field.metadata if isinstance(bound, annotated_types.Ge)), None)
    return least, next((bound.le for bound in field.metadata if isinstance(bound, annotated_types.Le)), None)


def _bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    """The ends of a slider; an open bound moves in by the slider's step."""
    low = high = None
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge():
                low = bound.ge
            case annotated_types.Gt():
                low = bound.gt + 0.01
            case annotated_types.Le():
                high = bound.le
            case annotated_types.Lt():
                high = bound.lt - 0.01
    return low, high


def read(settings: type[S], *values: object) -> S:
    """Settings from component values in the order of the class. Raises BadInput that names the field by its title."""
    return read_fields(settings, dict(zip(settings.model_fields, values, strict=True)))


def read_fields(settings: type[S], values: Mapping[str, object]) -> S:
    """Settings from component values by their fields' names; the others have their defaults. Raises BadInput that names the
    field by its title, and the bounds of a number."""
    fields = settings.model_fields
    try:
        return settings(**{name: _taken(fields[name], value) for name, value in values.items()})
    except ValidationError as error:
        raise BadInput(_complaint(fields, error)) from error


def _complaint(fields: Mapping[str, FieldInfo], error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"{message[0].upper()}{message[1:]}."
    field = fields[str(first["loc"][0])]
    number = _kind(field.annotation)[0] in (int, float) and first["type"] != "value_error"
    return f"{field.title}: {_wanted(field) if number else message}."


def taken(before: S, values: Mapping[str, object]) -> tuple[S, str]:
    """Settings with those component values that can be. The others stay as they were `before`, and a sentence says what is wrong
    with the first of them."""
    fields, wrong, given = type(before).model_fields, "", dict(values)
    while given:
        made = {name: _taken(fields[name], given[name]) if name in given else getattr(before, name) for name in fields}
        try:
            return type(before)(**made), wrong
        except ValidationError as error:
            wrong = wrong or _complaint(fields, error)
            bad = {str(each["loc"][0]) for each in error.errors() if each["loc"]} & given.keys()
            # What is wrong with no single field is wrong with all of them together.
            given = {name: value for name, value in given.items() if bad and name not in bad}
    return before, wrong


def _wanted(field: FieldInfo) -> str:
    """Which numbers a field takes."""
    kind, optional = _kind(field.annotation)
    words = {annotated_types.Ge: "from", annotated_types.Gt: "above", annotated_types.Le: "to", annotated_types.Lt: "to below"}
    bounds = [f"{words[type(each)]} {getattr(each, type(each).__name__.lower()):,}" for each in field.metadata if type(each) in words]
    return " ".join(["a whole number" if kind is int else "a number", *bounds]) + (", or nothing" if optional else "")


def whole_number(title: str, value: object, least: int, most: int) -> int:
    """A number that somebody types. Raises BadInput that names its bounds."""
    if isinstance(value, (int, float)) and value == int(value) and least <= value <= most:
        return int(value)
    raise BadInput(f"{title}: a whole number from {least:,} to {most:,}.")


def left(value: float | None, least: float, most: float) -> float:
    """What a slider's box shows once it is left: what was typed, or the nearest bound."""
    return min(max(value or 0, least), most)


def afterwards(event: Any, function: str) -> None:
    """Call a function of the page when an event has ended, with whether it failed. Gradio's own `then` does not come after a
    failure."""
    for ended, failed in ((event.success, "false"), (event.failure, "true")):
        ended(None, None, None, js=f"() => {function}({failed})", api_visibility="private", show_progress="hidden")


def when_chosen(picker: gr.Dropdown, function: Callable[[Any], Any], outputs: list[Component], **how: Any) -> Any:
    """The event that another value is chosen or typed. Gradio's own tells of a picker also when it is only left."""
    entered = gr.Textbox(visible=False, label="before")
    picker.focus(None, picker, entered, js="value => value", api_visibility="private", show_progress="hidden")

    def chosen(before: object, now: object) -> Any:
        if now == before:
            return gr.skip() if len(outputs) == 1 else [gr.skip()] * len(outputs)
        return function(now)

    return picker.input(chosen, [entered, picker], outputs, **how)


def names(function: Callable, *plain: str, settings: type[Settings] | None = None) -> None:
    """Say what the trailing `*values` of an event's function are for whoever calls it through the API: some by name, then
    the fields of a settings class with their defaults."""
    signature = inspect.signature(function)
    fixed = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_POSITIONAL]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    fields = [inspect.Parameter(name, kind, default=field.default) for name, field in (settings.model_fields.items() if settings else ())]
    function.__signature__ = signature.replace(parameters=[*fixed, *(inspect.Parameter(name, kind) for name in plain), *fields])


def shown(text: str) -> gr.Error:
    """A message as Gradio shows it. Gradio renders it as HTML, so it is escaped."""
    return gr.Error(html.escape(text, quote=False), title="That did not work", duration=12, print_exception=False)


@contextlib.contextmanager
def explained(plain: bool = False) -> Iterator[None]:
    """Engine errors inside the block reach the person as a message instead of a stack trace; with `plain` a program, word for word."""
    try:
        yield
    except EngineError as error:
        raise gr.Error(str(error), print_exception=False) if plain else shown(str(error)) from None
