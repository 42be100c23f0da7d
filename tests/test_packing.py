"""Rows laid end to end, LoRA's own gradients, the loss made in stretches: the numbers of the plain way."""

import numpy
import pytest
import torch
import training
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, MistralConfig

from engine import lora_layers, packing, passes
from engine.examples import Example


def _lora(tiny, dropout: float = 0.0):
    """The tiny model with LoRA matrices that are not zero."""
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).requires_grad_(False)
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def _gradients(model, loss) -> list[torch.Tensor]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(loss, parameters))


@pytest.fixture(scope="module")
def plain(tiny):
    return _lora(tiny)


@pytest.fixture(scope="module")
def packed(tiny):
    model = _lora(tiny)
    assert lora_layers.install(model, 0.0) and packing.suits(model.get_base_model())
    packing.begin(model.get_base_model(), lean=False)
    return model


@settings(max_examples=25)
@given(rows=st.lists(training.examples(), min_size=1, max_size=5))
def test_packed_rows_have_the_loss_and_gradients_of_the_rows_one_by_one(plain, packed, rows):
    one_by_one = sum(passes._padded_loss(plain, [row], 0) for row in rows)
    together = packing.summed_loss(packed.get_base_model(), rows)
    padded = passes._padded_loss(plain, rows, 0)
    assert float(together.detach()) == pytest.approx(float(one_by_one.detach()), rel=1e-5)
    assert float(padded.detach()) == pytest.approx(float(one_by_one.detach()), rel=1e-5)
    expected = _gradients(plain, one_by_one)
    largest = max(float(each.abs().max()) for each in expected)  # a gradient that is only what rounding leaves of zero tells nothing
    for mine, theirs in zip(_gradients(packed, together), expected, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5 * largest)


def test_a_model_over_several_gpus_is_asked_for_all_its_logits(plain, monkeypatch):
    """Where the positions would lie is not where its last layer is."""
    rows = [Example((1, 2, 3, 4), (False, True, False, True), 0), Example((5, 6, 7), (False, False, True), 0)]
    whole = passes._padded_loss(plain, rows, 0)
    monkeypatch.setattr(plain.get_base_model(), "hf_device_map", {"model.layers.0": 0, "lm_head": 1}, raising=False)
    asked = []
    honest = type(plain).forward
    monkeypatch.setattr(type(plain), "forward", lambda self, *args, **options: asked.append(options) or honest(self, *args, **options))
    assert passes._padded_loss(plain, rows, 0).item() == pytest.approx(whole.item(), rel=1e-6)
    assert len(asked) == 1 and "logits_to_keep" not in asked[0]


def test_answers_and_what_is_no_pass_use_the_models_own_attention(plain, packed):
    ids, mask = torch.tensor([[0, 0, 7, 8], [3, 4, 5, 6]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    with packing.own_attention(packed.get_base_model(), True):
        mine = packed.eval().generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    theirs = plain.eval().generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(mine, theirs) and packed.config._attn_implementation != "sdpa"


@settings(max_examples=25)
@given(count=st.integers(1, 20_000), share=st.floats(0.01, 0.9), key=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_dropout_draws_its_share_and_the_same_for_the_same_key(count, share, key):
    drawn = lora_layers.Dropout(share, key).dropped(count, 1, 3).numpy()
    again = lora_layers.Dropout(share, key).dropped(count, 1, 3).numpy()
    assert numpy.array_equal(drawn, again) and (numpy.diff(drawn) > 0).all() and ((0 <= drawn) & (drawn < count)).all()
    assert abs(len(drawn) - share * count) <= 6 * (count * share * (1 - share)) ** 0.5 + 1


def test_dropout_differs_between_layers_and_passes():
    drawn = {
        (key, layer): lora_layers.Dropout(0.1, key).dropped(1000, 1, layer).numpy().tobytes()
        for key in ((0, 1), (0, 2))
        for layer in (0, 1)
    }
    assert len(set(drawn.values())) == 4


def test_dropout_of_a_row_is_the_same_in_whatever_pass_it_comes():
    lengths, width = (3, 50, 7), 20
    together = lora_layers.Dropout(0.3, (1, 2), 0, lengths).dropped(sum(lengths), width, 4).numpy()
    apart, start = [], 0
    for row, length in enumerate(lengths):
        apart.append(start + lora_layers.Dropout(0.3, (1, 2), row, (length,)).dropped(length, width, 4).numpy())
        start += length * width
    assert numpy.array_equal(together, numpy.concatenate(apart))


def test_every_place_is_dropped_as_often():
    counts = numpy.zeros(200)
    for step in range(4_000):
        counts[lora_layers.Dropout(0.25, (step,)).dropped(200, 1, 0).numpy()] += 1
    assert numpy.abs(counts / 4_000 - 0.25).max() < 5 * (0.25 * 0.75 / 4_000) ** 0.5


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_layers_gradients_are_those_of_autograd(dropout):
    """In float64, so that only a wrong formula shows."""
    torch.manual_seed(1)
    x, weight, bias = torch.randn(2, 5, 6), torch.randn(7, 6), torch.randn(7)
    a, b = torch.randn(3, 6), torch.randn(7, 3)
    inputs = [each.double() for each in (x, weight, bias, a, b)]
    for index in (0, 3, 4):
        inputs[index].requires_grad_()
    left_out = lora_layers.Dropout(dropout, (1,)).dropped(x.numel(), 1, 0) if dropout else None
    assert torch.autograd.gradcheck(lambda *each: lora_layers._LoraLinear.apply(*each, 0.7, left_out), inputs)
    kept = torch.ones(x.numel(), dtype=torch.float64)
    if left_out is not None:
        kept[left_out] = 0
    x, weight, bias, a, b = inputs
    expected = x @ weight.T + bias + 0.7 * (x * kept.view_as(x)) @ a.T @ b.T
    assert torch.allclose(lora_layers._LoraLinear.apply(x, weight, bias, a, b, 0.7, left_out), expected)


def test_the_loss_made_in_stretches_is_cross_entropy(monkeypatch):
    monkeypatch.setattr(packing, "LOGITS_AT_ONCE", 4)
    torch.manual_seed(2)
    hidden, weight, wanted = (
        torch.randn(11, 5, dtype=torch.float64, requires_grad=True),
        torch.randn(13, 5).double(),
        torch.randint(13, (11,)),
    )
    mine = packing._HeadLoss.apply(hidden, weight, wanted)
    theirs = torch.nn.functional.cross_entropy(hidden @ weight.T, wanted, reduction="sum")
    assert float(mine.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    assert torch.allclose(*(torch.autograd.grad(3 * loss, hidden)[0] for loss in (mine, theirs)), rtol=1e-9)


@given(lengths=st.lists(st.integers(2, 3000), max_size=30))
def test_passes_keep_order_and_stay_within_their_tokens(lengths):
    rows = [Example((0,) * length, (False,) * length, 0) for length in lengths]
    parts = packing.parts(rows)
    assert [row for part in parts for row in part] == rows and all(parts)
    assert all(len(part) == 1 or sum(len(row.ids) for row in part) <= packing.PASS_TOKENS for part in parts)


@given(count=st.integers(1, 60), batch=st.integers(1, 20), seed=st.integers(0, 5))
def test_every_row_is_seen_once_an_epoch(count, batch, seed):
    seen = [row for step in range(1, 3 * count + 1) for row in passes.rows_of_step(count, batch, step, seed)]
    for epoch in range(len(seen) // count):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_models_that_are_not_plain_are_not_packed(tiny):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
    for window, suits in ((8, False), (None, True)):
        config = MistralConfig(**sizes, num_key_value_heads=1, sliding_window=window)
        assert packing.suits(AutoModelForCausalLM.from_config(config).requires_grad_(False)) is suits
    assert packing.suits(AutoModelForCausalLM.from_pretrained(tiny).requires_grad_(False))
    assert not packing.suits(AutoModelForCausalLM.from_pretrained(tiny))


def test_layers_that_are_not_plain_stay_with_peft(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert lora_layers.install(model, 0.1) is None
