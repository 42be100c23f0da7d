"""Scores of many texts at a time against a plain loop over one: transformers in 4 bits and unquantized, adapters, llama.cpp, servers."""

import contextlib
import http.server
import itertools
import json
import random
import threading

import builders
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import models
from engine.backends import open_backend, transformers_scoring
from engine.backends.base import Backend
from engine.backends.scoring import Choice, Text, divided
from engine.backends.scripted import ScriptedBackend
from engine.backends.transformers import TransformersBackend
from engine.blend import BASE, Blend
from engine.errors import BadInput, EngineError
from engine.settings import BackendName, LoadSettings, load_settings
from engine.tokenizers import PretrainedTokenizer


def opened(folder, quantization: str = "none") -> TransformersBackend:
    load = LoadSettings(backend="transformers", quantization=quantization)
    return TransformersBackend(models.resolve(str(folder), load), load, lambda progress: None)


@pytest.fixture(scope="module")
def backend(tiny, two_adapters):
    with contextlib.closing(opened(tiny)) as made:
        made.attach(two_adapters[0])
        yield made


def going_on() -> bool:
    return False


def plain(backend, text: Text, blend: Blend) -> list[float]:
    """One text in a pass of its own."""
    found = backend.logits(list(text.ids), blend, len(text.ids)).log_softmax(-1)
    return [float(found[place - 1, token]) for place, token in enumerate(text.ids) if text.learn[place]]


def chosen(backend, choice: Choice, blend: Blend) -> int:
    """Which candidate a plain loop takes."""
    before, rests = divided(backend.prompting, choice)
    sums = [sum(plain(backend, Text((*before, *rest), (*[False] * len(before), *[True] * len(rest))), blend)) for rest in rests]
    return max(range(len(sums)), key=sums.__getitem__)


def texts(seed: int, count: int = 30) -> list[Text]:
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        shared = [chance.randrange(5, 200) for _ in range(chance.randrange(30))]
        for _ in range(chance.randrange(1, 4)):
            ids = (*shared, *(chance.randrange(5, 200) for _ in range(chance.randrange(1, 50))))
            made.append(Text(ids, tuple(bool(place) and chance.random() < 0.7 for place in range(len(ids)))))
    return made


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.long
def test_many_at_once_are_scored_as_one_at_a_time(tiny, two_adapters, quantization, adapted):
    with contextlib.closing(opened(tiny, quantization)) as backend:
        blend = Blend.of([two_adapters[0]]) if adapted else BASE
        for adapter in blend.adapters:
            backend.attach(adapter)
        asked = texts(1)
        found = dict(backend.scorer().likelihoods(asked, blend, going_on))
        assert sorted(found) == list(range(len(asked)))
        for number, text in enumerate(asked):
            assert found[number] == pytest.approx(plain(backend, text, blend), abs=1e-3)


def test_a_blend_is_in_force_for_its_own_texts_alone(backend, two_adapters):
    scorer, asked, tuned = backend.scorer(), texts(2, 3), Blend.of([two_adapters[0]])
    before = dict(scorer.likelihoods(asked, BASE, going_on))
    assert dict(scorer.likelihoods(asked, tuned, going_on))[0] != before[0]
    assert dict(scorer.likelihoods(asked, BASE, going_on)) == before


@given(data=st.data())
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_pieces_and_shared_beginnings_change_nothing(backend, data):
    """Whatever the limits: tiny batches, caches of a few tokens, texts read in pieces."""
    asked = data.draw(
        st.lists(st.lists(st.integers(5, 9), min_size=2, max_size=10), min_size=1, max_size=7).map(
            lambda rows: [Text(tuple(row), (False, *[True] * (len(row) - 1))) for row in rows]
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers_scoring, "_TOKENS", data.draw(st.integers(4, 60)))
        patch.setattr(transformers_scoring, "_PIECE", data.draw(st.integers(3, 12)))
        found = dict(backend.scorer().likelihoods(asked, BASE, going_on))
    assert sorted(found) == list(range(len(asked)))
    for number, text in enumerate(asked):
        assert found[number] == pytest.approx(plain(backend, text, BASE), abs=1e-3)


def test_another_architecture_is_scored_alike(gpt2):
    """GPT-2 has learnt positions, of which padding must not ask for more than there are."""
    with contextlib.closing(opened(gpt2)) as backend:
        long = tuple(7 + place % 90 for place in range(256))
        asked = [*texts(3, 6), Text(long, (False, *[True] * 255)), Text((*long[:200], 5), (*[False] * 200, True))]
        for number, figures in backend.scorer().likelihoods(asked, BASE, going_on):
            assert figures == pytest.approx(plain(backend, asked[number], BASE), abs=1e-3)


LETTERS = tuple(f" {letter}" for letter in "ABCD")


@pytest.mark.parametrize("candidates", [LETTERS, ("yes", "no", "maybe"), ("A", "AB")])
def test_choices_are_those_of_a_plain_loop(backend, two_adapters, candidates):
    """The tiny model's tokens are bytes: " A" is two of them."""
    assert len(backend.prompting.ids(" A", control=False)) == 2
    asked = [Choice(f"Shared words stand before number {number}.\nAnswer:", candidates) for number in range(12)]
    for blend in (BASE, Blend.of([two_adapters[0]])):
        found = dict(backend.scorer().choices(asked, blend, going_on))
        assert [max(range(len(candidates)), key=found[number].__getitem__) for number in range(12)] == [
            chosen(backend, choice, blend) for choice in asked
        ]


def test_what_candidates_share_counts_to_the_text():
    """One token for " H", two for " A", and a space of its own before every text: LLaMA's kind of tokenizer."""
    tokenizer = PretrainedTokenizer(builders.sentencepiece_tokenizer())

    def shown(candidates):
        before, rests = divided(tokenizer, Choice("Answer:", candidates))
        return tokenizer.text(list(before)), [len(rest) for rest in rests]

    assert shown((" A", " B")) == ("<s> Answer: ", [1, 1])
    assert shown((" H", " A")) == ("<s> Answer:", [1, 2])
    before, rests = divided(tokenizer, Choice("Answer:", (" A", " B")))
    assert [*before, *rests[0]] == [*tokenizer.start(), *tokenizer.ids("Answer: A", control=False)]


def test_a_text_longer_than_the_context_is_named(backend):
    with pytest.raises(BadInput, match=r"Text 2 has 513 tokens, and this model takes 512 here"):
        list(backend.scorer().likelihoods([Text((1, 2), (False, True)), Text((1,) * 513, (False,) * 513)], BASE, going_on))
    with pytest.raises(BadInput, match=r"Text 1 has .* tokens"):
        list(backend.scorer().choices([Choice("a" * 600, LETTERS)], BASE, going_on))


def test_an_adapter_that_is_not_loaded_is_refused(backend):
    with pytest.raises(BadInput, match="not loaded"):
        list(backend.scorer().likelihoods([Text((1, 2), (False, True))], Blend.of(["nobody"]), going_on))


def test_stop_is_asked_between_batches_and_what_is_known_is_not_made_again(backend, monkeypatch):
    monkeypatch.setattr(transformers_scoring, "_TOKENS", 120)
    asked = texts(4)
    whole = dict(backend.scorer().likelihoods(asked, BASE, going_on))
    asks = itertools.count()
    first = dict(backend.scorer().likelihoods(asked, BASE, lambda: next(asks) >= 3))
    assert 0 < len(first) < len(asked)
    rest = dict(backend.scorer().likelihoods(asked, BASE, going_on, first))
    assert not set(first) & set(rest) and first | rest == whole  # bit for bit: the batches are the same


def test_numbers_that_are_none_are_told(tiny):
    import torch

    with contextlib.closing(opened(tiny)) as backend:
        with torch.no_grad():
            backend._model.lm_head.weight[0, 0] = float("nan")
        with pytest.raises(EngineError, match="NaN"):
            list(backend.scorer().likelihoods([Text((1, 2), (False, True))], BASE, going_on))


def test_the_vocabulary_is_looked_at_only_where_something_is_asked(backend):
    seen = []
    hook = backend._model.lm_head.register_forward_hook(lambda module, given, made: seen.append(made.shape[1]))
    try:
        list(backend.scorer().likelihoods([Text((*range(5, 45), last), (*[False] * 40, True)) for last in (50, 51, 52)], BASE, going_on))
    finally:
        hook.remove()
    assert seen == [1]  # all three ask behind the same beginning


def test_llama_cpp_chooses_as_transformers_does_and_scores_no_texts(tiny_gguf, two_adapters):
    folder = tiny_gguf.parent / "tiny-llama"
    load = LoadSettings(backend="llama.cpp")
    asked = [Choice(f"Number {number}\nAnswer:", LETTERS) for number in range(4)]
    with (
        contextlib.closing(open_backend(models.resolve(str(tiny_gguf), load), load, lambda progress: None)) as served,
        contextlib.closing(opened(folder)) as reference,
    ):
        expected, found = (dict(each.scorer().choices(asked, BASE, going_on)) for each in (reference, served))
        for number in range(4):
            apart = [
                one - found[number][0] - (other - expected[number][0]) for one, other in zip(found[number], expected[number], strict=True)
            ]
            assert apart == pytest.approx([0] * 4, abs=0.02)
        with pytest.raises(BadInput, match="next token alone.*transformers"):
            list(served.scorer().likelihoods([Text((1, 2), (False, True))], BASE, going_on))


class _Completions(http.server.BaseHTTPRequestHandler):
    """An OpenAI-compatible server that finds " B" likeliest; `form` says how it tells probabilities."""

    form = "old"

    def _say(self, value) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self._say({"data": [{"id": "big"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        told = {" B": -0.1, " A": -2.5, " the": -3.0}
        forms = {
            "old": {"top_logprobs": [told]},
            "new": {"content": [{"top_logprobs": [{"token": token, "logprob": value} for token, value in told.items()]}]},
            "none": None,
            "others": {"top_logprobs": [{" the": -1.0}]},
        }
        self._say({"choices": [{"text": " B", "logprobs": forms[self.form]}]})

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def far():
    """A scorer of a server elsewhere, and the class that says how it answers."""
    handler = type("Handler", (_Completions,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    load = load_settings(BackendName.remote, f"http://127.0.0.1:{server.server_port}/v1", "", None)
    backend: Backend = open_backend(models.resolve("big", load), load, lambda progress: None)
    yield backend.scorer(), handler
    backend.close()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("form", ["old", "new"])
def test_a_server_chooses_by_what_it_tells_of_the_next_token(far, form):
    scorer, handler = far
    handler.form = form
    ((_, figures),) = scorer.choices([Choice("Answer:", LETTERS)], BASE, going_on)
    assert figures == (-2.5, -0.1, -4.0, -4.0)


@pytest.mark.parametrize(("form", "words"), [("none", "tells no probabilities"), ("others", "' A'.*transformers")])
def test_a_server_that_tells_too_little_is_told_of(far, form, words):
    scorer, handler = far
    handler.form = form
    with pytest.raises(EngineError, match=words):
        list(scorer.choices([Choice("Answer:", LETTERS)], BASE, going_on))
    with pytest.raises(BadInput, match="remote.*MMLU"):
        list(scorer.likelihoods([Text((1, 2), (False, True))], BASE, going_on))


def test_the_scripted_scorer_says_what_it_is_told_to():
    scorer = ScriptedBackend(likelihood=lambda before, what, blend: -float(len(before)) - (blend is not None)).scorer()
    assert list(scorer.choices([Choice("ab", ("x", "y"))], Blend.of(["scripted-one"]), going_on)) == [(0, (-3.0, -3.0))]
    assert list(scorer.likelihoods([Text(tuple(map(ord, "abc")), (False, True, True))], BASE, going_on)) == [(0, (-1.0, -2.0))]
    assert list(scorer.choices([Choice("ab", ("x", "y"))] * 2, BASE, going_on, {0})) == [(1, (-2.0, -2.0))]


def test_a_model_that_is_loaded_for_chat_says_where_it_is_measured():
    with pytest.raises(BadInput, match="engine evaluate"):
        Backend.scorer(ScriptedBackend())
