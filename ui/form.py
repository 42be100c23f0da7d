"""A settings class as form components, and values of those components as checked settings; what else forms share."""

import contextlib
import html
import inspect
from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

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


def components(settings: type[Settings]) -> list[Component]:
    """One component a field, in the order of the class, with its title, help, bounds and default."""
    return [_component(field) for field in settings.model_fields.values()]


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
    common = {"label": field.title, "info": field.description, "value": field.default}
    if get_origin(kind) is Literal:
        return gr.Dropdown(choices=list(get_args(kind)), **common)
    if kind is bool:
        return gr.Checkbox(**common)
    if kind in (int, float):
        low, high = _bounds(field)
        if optional or low is None or high is None:
            return gr.Number(minimum=low, maximum=high, precision=0 if kind is int else None, **common)
        return gr.Slider(low, high, step=1 if kind is int else 0.01, **common)
    if kind is str:
        return gr.Textbox(**common)
    raise TypeError(f"no component for a setting of type {field.annotation}")


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type without `| None`, and whether None was allowed."""
    if get_origin(annotation) is UnionType:
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        return kinds[0], len(kinds) < len(get_args(annotation))
    return annotation, False


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
    try:
        return settings(**dict(zip(settings.model_fields, values, strict=True)))
    except ValidationError as error:
        first = error.errors()[0]
        field = settings.model_fields[str(first["loc"][0])]
        raise BadInput(f"{field.title}: {first['msg']}.") from error


def afterwards(event: Any, function: str) -> None:
    """Call a function of the page when an event has ended, with whether it failed. Gradio's own `then` does not come after a
    failure."""
    for ended, failed in ((event.success, "false"), (event.failure, "true")):
        ended(None, None, None, js=f"() => {function}({failed})", api_visibility="private", show_progress="hidden")


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
def explained() -> Iterator[None]:
    """Engine errors inside the block reach the person as a message instead of a stack trace."""
    try:
        yield
    except EngineError as error:
        raise shown(str(error)) from None
