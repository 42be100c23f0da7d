"""Where answers come from. `open_backend` is the one door: it picks, checks and loads."""

from dataclasses import replace

from engine import hardware
from engine.backends.base import Backend, Stop
from engine.backends.turns import Turns
from engine.errors import BadInput
from engine.events import Progress
from engine.hub import Report
from engine.model_spec import ModelSpec
from engine.settings import LoadSettings


def open_backend(
    spec: ModelSpec,
    load: LoadSettings,
    report: Report,
    isolated: bool = False,
    cancelled: Stop = lambda: False,
    turns: Turns | None = None,
) -> Backend:
    """Load a model. `isolated` is for an app: it puts transformers into a process of its own, as llama.cpp always is, which
    keeps this one responsive, survives a crash of native code, gives all memory back on `close`, and can be cancelled; and
    llama.cpp makes many answers at a time. `turns` is shared by backends that compete for the same processor. Raises
    BadInput or EngineError."""
    if spec.kind == "scripted":
        from engine.backends.scripted import ScriptedBackend

        report(Progress("The scripted backend is ready", 1.0))
        return ScriptedBackend()
    if load.backend == "remote":
        from engine.backends.remote import RemoteBackend

        return RemoteBackend(spec, load)
    notes: tuple[str, ...] = ()
    if spec.runs_with(load, hardware.machine()) == "llama.cpp":
        from engine.backends import llamacpp
        from engine.backends.llama_process import NotInstalled

        try:
            return llamacpp.LlamaCppBackend(spec, load, report, llamacpp.MOST_SLOTS if isolated else 1, cancelled, turns)
        except NotInstalled as error:
            if load.backend == "llama.cpp":
                raise BadInput(f"{error} Install it with `pip install xllamacpp`, or choose the backend transformers.") from error
            notes = (f"{error} transformers answers instead.",)
    if isolated:
        from engine.backends.process import ProcessBackend

        opened: Backend = ProcessBackend(spec, load, report, cancelled)
    else:
        from engine.backends.transformers import TransformersBackend

        opened = TransformersBackend(spec, load, report)
    opened.loaded = replace(opened.loaded, notes=(*notes, *opened.loaded.notes))
    return opened
