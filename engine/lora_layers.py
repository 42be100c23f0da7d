"""LoRA on plain float32 layers for a CPU: the numbers of PEFT's layers, with fewer passes over memory.

Gradients are written by hand, and dropout draws only the places it drops: on two cores that is a fifth of a step's time.
"""

import math
from dataclasses import dataclass

import numpy
import torch


@dataclass
class Dropout:
    """Which inputs are left out, for all layers of a model, row by row of a pass. It depends on `key`, the place of the row in its
    step (`first` is that of the pass's first row) and the layer alone, so that a pass made again, after a restart or by
    activation checkpointing, leaves out the same, and so does a step in smaller passes."""

    share: float
    key: tuple[int, ...] = ()
    first: int = 0
    lengths: tuple[int, ...] = ()

    def dropped(self, tokens: int, width: int, layer: int) -> torch.Tensor:
        """Ascending flat indices into [tokens, width], each there with probability `share`. A layer that sees not all tokens of the
        pass, as an output layer that makes only the logits that are wanted, draws for them as for one row."""
        lengths = self.lengths if sum(self.lengths) == tokens else (tokens,)
        start, places = 0, []
        for row, length in enumerate(lengths, self.first):
            places.append(self._of_row(length * width, row, layer) + start)
            start += length * width
        return torch.from_numpy(numpy.concatenate(places))

    def _of_row(self, count: int, row: int, layer: int) -> numpy.ndarray:
        """Indices below `count`: gaps between them are geometric."""
        generator = numpy.random.Generator(numpy.random.SFC64([*self.key, row, layer]))
        expected = count * self.share
        gaps = generator.geometric(self.share, int(expected + 6 * math.sqrt(expected) + 16))
        places = numpy.cumsum(gaps) - 1
        return places[: numpy.searchsorted(places, count)]


def install(model, dropout: float) -> Dropout | None:
    """Let the LoRA layers on plain float32 weights of a PEFT model compute here. Gives what their dropout hangs on, or None
    where the model has other layers too and everything stays as PEFT has it."""
    from peft.tuners.lora import Linear, LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not all(type(layer) is Linear and type(layer.base_layer) is torch.nn.Linear and _is_plain(layer.base_layer) for layer in layers):
        return None
    state = Dropout(dropout)
    for index, layer in enumerate(layers):
        layer.forward = _Forward(layer, index, state)
    return state


def _is_plain(layer: torch.nn.Linear) -> bool:
    return layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu" and not layer.weight.requires_grad


@dataclass(frozen=True)
class _Forward:
    """`forward` of one of PEFT's layers with one adapter."""

    layer: torch.nn.Module
    index: int
    dropout: Dropout

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        base, (name,) = self.layer.base_layer, self.layer.active_adapters
        a, b, scale = self.layer.lora_A[name].weight, self.layer.lora_B[name].weight, self.layer.scaling[name]
        left_out = None
        if self.layer.training and self.dropout.share:
            left_out = self.dropout.dropped(x.numel() // x.shape[-1], x.shape[-1], self.index)
            scale /= 1 - self.dropout.share
        return _LoraLinear.apply(x, base.weight, base.bias, a, b, scale, left_out)


class _LoraLinear(torch.autograd.Function):
    """y = x W' + bias + scale (x_kept A') B', with x [..., in], W [out, in], A [r, in], B [out, r]; W and bias stand still."""

    @staticmethod
    def forward(ctx, x, weight, bias, a, b, scale, left_out):
        flat = x.reshape(-1, x.shape[-1])
        inner = _kept(flat, left_out) @ a.T
        y = torch.nn.functional.linear(flat, weight, bias)
        y.addmm_(inner, b.T, alpha=scale)
        ctx.save_for_backward(flat, weight, a, b, inner, left_out)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, dy):
        flat, weight, a, b, inner, left_out = ctx.saved_tensors
        dy = dy.reshape(-1, dy.shape[-1])
        d_inner = (dy @ b).mul_(ctx.scale)
        d_a = d_inner.T @ _kept(flat, left_out)
        d_b = (dy.T @ inner).mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = dy @ weight
            if left_out is None:
                d_x.addmm_(d_inner, a)
            else:
                through = d_inner @ a
                through.view(-1).index_fill_(0, left_out, 0.0)
                d_x += through
            d_x = d_x.view(ctx.shape)
        return d_x, None, None, d_a, d_b, None, None


def _kept(flat: torch.Tensor, left_out: torch.Tensor | None) -> torch.Tensor:
    return flat if left_out is None else flat.reshape(-1).index_fill(0, left_out, 0.0).view_as(flat)
