"""The part of step 7 that asks what a run forgot: it starts the measurements and shows what came of them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr

from engine.errors import EngineError
from engine.evaluate import forgetting
from engine.runs import Run
from ui import form
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
        # By session the run that is chosen, while a check is followed there.
        chosen: dict[str, str | None] = {}

        def check(request: gr.Request, name: str) -> Iterator[list]:
            session = request.session_hash or ""
            flag, checks = stops.begin(session), []
            chosen[session] = name

            def here() -> bool:
                return chosen.get(session, name) == name

            try:
                found = self.found(name)
                yield [told("The measurements are started."), gr.Button(visible=True)]
                checks = forgetting.start(name, found)
                stopped = False
                while any(map(forgetting.goes_on, checks)) and here():
                    if flag.is_set() and not stopped:
                        forgetting.stop(checks)
                        stopped = True
                    yield ["".join(map(_shown, checks)), gr.skip()]
                    time.sleep(_LOOK_SECONDS)
                said = "".join(map(_shown, checks))
            except EngineError as error:
                said = told(str(error), "wrong")
            finally:
                stops.end(session, flag)
                away = not here()
                chosen.pop(session, None)
            # Beside another run it would be taken for what that one forgot. The measurements go on, in the tab Measure.
            yield ["" if away else said, gr.Button(visible=False)]

        def stop(request: gr.Request) -> None:
            stops.stop(request.session_hash)

        def turn(request: gr.Request, name: str | None) -> None:
            if (session := request.session_hash or "") in chosen:
                chosen[session] = name

        self.check.click(check, run, [self.told, self.stop], api_visibility="private", **CHECKING)
        self.stop.click(stop, None, None, api_visibility="private", queue=False)
        run.change(turn, run, None, api_visibility="private", **form.SILENT)


def _shown(check: forgetting.Check) -> str:
    try:
        if forgetting.goes_on(check):
            return told(f"{forgetting.how_far(check)} …")
        return told(forgetting.words(check))
    except EngineError as error:
        return told(str(error), "wrong")
