"""The part of step 7 that asks what a run forgot: it starts the measurements and shows what came of them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr

from engine.errors import EngineError
from engine.evaluate import forgetting
from engine.runs import Run
from ui.answers import Stops
from ui.finetune.workshop import Workshop
from ui.telling import told

CHECKING = {"concurrency_limit": 2, "concurrency_id": "forgetting", "show_progress": "hidden"}
_LOOK_SECONDS = 0.5
LEAD = (
    f"{forgetting.QUESTIONS} questions of MMLU and {forgetting.ROWS} general answers, base against yours. MMLU's questions (1 MB) are fetched "
    "the first time. It takes minutes, and goes on in the tab Measure when this page is closed."
)


@dataclass
class Forgetting:
    """The components; `found` gives the run of that name or raises BadInput."""

    shop: Workshop
    found: Callable[[str | None], Run]

    def draw(self) -> "Forgetting":
        with gr.Accordion("What did it forget?", open=False, visible=not self.shop.services.read_only, elem_id="ft-forgetting"):
            gr.Markdown(LEAD)
            with gr.Row():
                self.check = gr.Button("Check it", size="sm", elem_id="ft-forgot-check")
                self.stop = gr.Button("Stop the check", size="sm", variant="stop", visible=False, elem_id="ft-forgot-stop")
            self.told = gr.HTML(elem_id="ft-forgot", apply_default_css=False)
        self.outputs = [self.told]
        return self

    def wire(self, run: gr.Dropdown) -> None:
        stops = Stops()

        def check(request: gr.Request, name: str) -> Iterator[list]:
            flag, checks = stops.begin(request.session_hash), []
            try:
                found = self.found(name)
                yield [told("The measurements are started."), gr.Button(visible=True)]
                checks = forgetting.start(name, found)
                stopped = False
                while any(map(forgetting.goes_on, checks)):
                    if flag.is_set() and not stopped:
                        forgetting.stop(checks)
                        stopped = True
                    yield ["".join(map(_shown, checks)), gr.skip()]
                    time.sleep(_LOOK_SECONDS)
                yield ["".join(map(_shown, checks)), gr.Button(visible=False)]
            except EngineError as error:
                yield [told(str(error), "wrong"), gr.Button(visible=False)]
            finally:
                stops.end(request.session_hash, flag)

        def stop(request: gr.Request) -> None:
            stops.stop(request.session_hash)

        self.check.click(check, run, [self.told, self.stop], api_visibility="private", **CHECKING)
        self.stop.click(stop, None, None, api_visibility="private", queue=False)


def _shown(check: forgetting.Check) -> str:
    try:
        if forgetting.goes_on(check):
            return told(f"{forgetting.how_far(check)} …")
        return told(forgetting.words(check))
    except EngineError as error:
        return told(str(error), "wrong")
