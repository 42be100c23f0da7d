"""Whether two holders of one model answer alike: greedy answers and logits on a run's sample prompts.

What is rounded to 16 bits differs in its last digits; what was merged, named or laid out wrongly differs in every one.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from engine.backends.base import Backend
from engine.blend import BASE, Blend
from engine.errors import EngineError
from engine.messages import Conversation
from engine.settings import ChatSettings
from engine.trained import Trained

if TYPE_CHECKING:
    from engine.backends.transformers import TransformersBackend

PROMPTS = ("What can you do?", "Name a city by the sea.", "Write one sentence about bread.")
ANSWER_TOKENS = 32
# Mean difference of logits, as a share of how far they spread (their standard deviation), by the type that either side computes in: its
# rounding comes on top of that of the weights. Measured on the starter after ten steps, where all is right: 0.0005 in float32, 0.015 in
# float16, 0.039 in bfloat16. Where one layer's adapter is missing 0.018, where it is added at half its scale 0.19, to the unquantized
# base 0.22, and not at all 0.41.
MOST_APART = {"float32": 0.01, "float16": 0.05, "bfloat16": 0.1}
_GREEDY = ChatSettings(temperature=0, max_new_tokens=ANSWER_TOKENS)


@dataclass(frozen=True)
class Probe:
    """A prompt and its greedy answer: `ids` are the tokens of both, the answer's from `begins` on; `logits` those after every token from
    the prompt's last on, float32 [answer + 1, vocabulary]."""

    prompt: str
    ids: tuple[int, ...]
    begins: int
    text: str
    logits: Any


@dataclass(frozen=True)
class Likeness:
    """How far two holders are apart. Logits: absolute differences, their `spread` and what the adapter itself changes
    (`adapter_effect`, a mean) to compare them with. Answers: how many of the prompts had the same text."""

    prompts: int
    same_answers: int
    max_logit_difference: float
    mean_logit_difference: float
    logit_spread: float
    adapter_effect: float

    @property
    def text(self) -> str:
        return (
            f"{self.same_answers} of {self.prompts} greedy answers are the same; logits differ by {self.mean_logit_difference:.2g} on average and "
            f"{self.max_logit_difference:.2g} at most, where they spread by {self.logit_spread:.2g} and the adapter changes them by {self.adapter_effect:.2g}"
        )

    @property
    def numbers(self) -> dict:
        return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in asdict(self).items()}


def conversations(trained: Trained) -> list[tuple[str, Conversation]]:
    """The run's sample prompts, or a few of our own, as conversations in which the answer is due."""
    system = trained.recipe.data.system
    return [(prompt, Conversation(system=system).add("user", prompt)) for prompt in trained.recipe.samples.prompts or PROMPTS]


def answered(backend: Backend, conversation: Conversation, form: str, blend: Blend) -> tuple[list[int], str]:
    """The tokens of the prompt, and the text of the greedy answer."""
    prompt = backend.encode(conversation, form)
    return list(prompt.content), "".join(delta.text for delta in backend.generate(prompt, _GREEDY, 0, blend, stop=lambda: False, cold=True))


def probes(backend: "TransformersBackend", trained: Trained, blend: Blend) -> list[Probe]:
    """How a loaded model answers the run's prompts."""
    found = []
    for prompt, conversation in conversations(trained):
        asked, text = answered(backend, conversation, trained.form.name, blend)
        ids = (*asked, *backend.prompting.ids(text, control=False))
        found.append(Probe(prompt, ids, len(asked), text, backend.logits(list(ids), blend, len(ids) - len(asked) + 1)))
    return found


def effect(backend: "TransformersBackend", expected: list[Probe]) -> float:
    """The mean difference that the adapter makes to the base's logits."""
    return _mean([(backend.logits(list(each.ids), BASE, len(each.logits)) - each.logits).abs() for each in expected])


def compared(
    backend: "TransformersBackend", trained: Trained, expected: list[Probe], effect: float, computed: str
) -> tuple[Likeness, list[Probe]]:
    """How far a loaded model is from what was expected of it, in the type `computed`, and its own answers. Raises EngineError, with the
    numbers, where it clearly answers otherwise."""
    own = probes(backend, trained, BASE)
    apart = []
    for each, ours in zip(expected, own, strict=True):
        logits = ours.logits if ours.ids == each.ids else backend.logits(list(each.ids), BASE, len(each.logits))
        apart.append((logits - each.logits).abs())
    same = sum(ours.text == each.text for each, ours in zip(expected, own, strict=True))
    spread = _mean([each.logits.std() for each in expected])
    found = Likeness(len(expected), same, max(float(each.max()) for each in apart), _mean(apart), spread, effect)
    most = max(MOST_APART[computed], MOST_APART[backend.loaded.compute_dtype])
    if not found.mean_logit_difference <= most * found.logit_spread:  # neither where it is no number
        raise EngineError(
            f"What was written does not answer like the base with the adapter, so nothing was kept: {found.text}. Please report this model."
        )
    return found, own


def _mean(tensors: list) -> float:
    return sum(float(each.mean()) for each in tensors) / len(tensors)
