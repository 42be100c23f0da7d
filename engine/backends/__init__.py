"""Where answers come from. `open_backend` is the one door: it picks, checks and loads."""

from typing import Literal

from engine.backends.base import Backend, Stop
from engine.events import Progress
from engine.hub import Report
from engine.models import ModelSpec
from engine.settings import LoadSettings

Name = Literal["auto", "transformers"]


def open_backend(spec: ModelSpec, load: LoadSettings, report: Report, isolated: bool = False, cancelled: Stop = lambda: False) -> Backend:
    """Load a model. `isolated` puts it into a process of its own, which keeps this one responsive, survives a crash
    of native code, gives all memory back on `close`, and can be cancelled. Raises BadInput or EngineError."""
    if spec.kind == "scripted":
        from engine.backends.scripted import ScriptedBackend

        report(Progress("The scripted backend is ready", 1.0))
        return ScriptedBackend()
    if isolated:
        from engine.backends.process import ProcessBackend

        return ProcessBackend(spec, load, report, cancelled)
    from engine.backends.transformers import TransformersBackend

    return TransformersBackend(spec, load, report)
