"""Changes of the wizard's draft one after another: what is made while another is on its way would be made of the draft before it, and
undo that one or be undone."""

import itertools
from collections.abc import Callable, Sequence

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

# `static/turns.js` is in the page's head.
_TURNS = "window.guanacoTurns"
_NUMBERS = itertools.count()


class Turn:
    """A change that `function` makes when its turn comes. Gradio takes an event's inputs when it is triggered, so what triggers the
    change only asks for a turn, and `event` begins when it has come."""

    def __init__(self, function: Callable, inputs: object, outputs: object, handed: bool = False, once: bool = False, **how: object):
        """As an event of Gradio. What is `handed` over by `after` takes the place of the first input. One that is made `once` is not asked
        for again while it is made, as by a second press of its button."""
        self._id, self._once = f"ft-turn-{next(_NUMBERS)}", once
        button = gr.Button(visible="hidden", elem_id=self._id)
        given = f"(_, ...values) => [{_TURNS}.given, ...values]" if handed else None
        how = {"api_visibility": "private", "trigger_mode": "multiple", **how}
        self.event: Dependency = button.click(function, inputs, outputs, js=given, **how)
        # Gradio's `then` is not told of what a full queue refuses.
        for ended in (self.event.success, self.event.failure):
            ended(None, None, None, js=f"() => {_TURNS}.ended()", api_visibility="private")

    def after(self, *triggers: Callable, inputs: Sequence[Component] = (), hand: str = "() => undefined") -> Dependency:
        """Ask for a turn after each of these. The script `hand` gets the `inputs` and gives what is handed over: what they hold now may
        be gone when the turn comes. Where it gives null there is no turn."""
        for trigger in triggers:
            asked = f"(...inputs) => {{ {_TURNS}.asked('{self._id}', ({hand})(...inputs), {int(self._once)}); }}"
            trigger(None, [*inputs], None, js=asked, api_visibility="private")
        return self.event
