"""What is trained: a base held still, in 4 bits, and the LoRA matrices on it, in float32 (QLoRA, section 3).

Owns loading for training, the adapter's tensors in and out, and whether 4-bit weights are unpacked once. Imports torch.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from engine import adapters, hardware, hub, lora_layers, memory, packing, trainable
from engine.backends import pretrained
from engine.backends.pretrained import Pretrained
from engine.errors import BadInput
from engine.model_spec import ModelSpec
from engine.prompts import Format, chosen_format
from engine.recipe import Recipe
from engine.settings import LoadSettings
from engine.tokenizers import PretrainedTokenizer

_ADAPTER = "default"


@dataclass(frozen=True)
class Trainee:
    """A base with LoRA layers on it, ready to be trained. `parameters`: the LoRA matrices, in a fixed order. `packed`: rows may
    share a pass end to end. `dropout`: what the layers' dropout hangs on where it is not torch's own generator."""

    base: Pretrained
    model: Any
    parameters: list
    tokenizer: PretrainedTokenizer
    form: Format
    on_gpu: bool
    unpacked: bool
    packed: bool
    dropout: lora_layers.Dropout | None
    notes: tuple[str, ...]

    @property
    def pad(self) -> int:
        """The id that fills up shorter rows; masked and never a target. The first that ends no answer: no token is added for it."""
        return next(token for token in range(len(self.base.ends) + 1) if token not in self.base.ends)

    def draw_from(self, *key: int, first: int, lengths: Sequence[int]) -> None:
        """Let what dropout draws in the next pass depend on `key` and the places of its rows in the step alone: `first` and those
        behind it, of so many tokens each. Where dropout is torch's own, it depends on how a step is split into passes too."""
        if self.dropout:
            self.dropout.key, self.dropout.first, self.dropout.lengths = key, first, tuple(lengths)
        else:
            torch.manual_seed(hash((*key, first)))

    def weights(self) -> dict:
        """The LoRA matrices by PEFT's names, as copies on the CPU."""
        from peft import get_peft_model_state_dict

        tensors = get_peft_model_state_dict(self.model, adapter_name=_ADAPTER, save_embedding_layers=False)
        return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}

    def put(self, tensors: Mapping) -> None:
        """Set the LoRA matrices. Raises BadInput where they are not those of this model."""
        from peft import set_peft_model_state_dict

        mine = self.weights()
        if {name: tensor.shape for name, tensor in tensors.items()} != {name: tensor.shape for name, tensor in mine.items()}:
            raise BadInput("These LoRA matrices belong to another recipe: layers or ranks differ.")
        set_peft_model_state_dict(self.model, dict(tensors), adapter_name=_ADAPTER)

    def config(self) -> dict:
        """The adapter's `adapter_config.json`, as this app and PEFT read it."""
        plan = self.model.peft_config[_ADAPTER]
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base.spec.source,
            "r": plan.r,
            "lora_alpha": plan.lora_alpha,
            "lora_dropout": plan.lora_dropout,
            "target_modules": sorted(plan.target_modules),
            "use_rslora": plan.use_rslora,
            "bias": "none",
            "inference_mode": True,
            "rank_pattern": plan.rank_pattern,
            "alpha_pattern": plan.alpha_pattern,
        }


def prepare(recipe: Recipe, spec: ModelSpec, report: hub.Report, unpacked: bool | None = None) -> Trainee:
    """Load a recipe's base and put its LoRA layers on. `unpacked` is the choice of an earlier part of the same run, None for a
    new one. Raises BadInput or EngineError."""
    load, notes = _held(recipe)
    base = pretrained.opened(spec, load, report)
    notes += base.notes
    on_gpu = torch.cuda.is_available()
    unpack = _unpacks(recipe, base, on_gpu, notes) if unpacked is None else unpacked
    if unpack:
        _unpack(base.model)
    tokenizer = PretrainedTokenizer(base.tokenizer)
    form = chosen_format(recipe.data.prompt_format, spec.prompt, tokenizer)
    model = _with_lora(recipe, base, report)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    dropout = lora_layers.install(model, recipe.lora.dropout)
    packed = not on_gpu and packing.suits(model.get_base_model())
    if packed:
        packing.begin(model.get_base_model(), lean=recipe.memory.activation_checkpointing)
    return Trainee(base, model, parameters, tokenizer, form, on_gpu, unpack, packed, dropout, tuple(notes))


def _held(recipe: Recipe) -> tuple[LoadSettings, list[str]]:
    """How the base is loaded, and what of the recipe's wish this machine has not (faults, row 3)."""
    held, notes = recipe.quantization, []
    wanted = held.compute_dtype
    capabilities = pretrained.cuda_capabilities()
    if not capabilities and wanted in ("bfloat16", "float16"):
        notes.append(f"the recipe asks for {wanted}; without a GPU float32 is faster and exact")
        wanted = "auto"
    elif wanted == "bfloat16" and hardware.compute_dtype(capabilities) != "bfloat16":
        notes.append("the recipe asks for bfloat16, which this GPU has not; float16 is taken, with scaled losses")
        wanted = "auto"
    load = LoadSettings(
        backend="transformers",
        quantization=held.kind,
        double_quantization=held.double,
        compute_dtype=wanted,
        max_memory_gib=recipe.memory.max_memory_gib,
    )
    return load, notes


def _unpacks(recipe: Recipe, base: Pretrained, on_gpu: bool, notes: list[str]) -> bool:
    """Whether the 4-bit weights are unpacked once: on a CPU bitsandbytes unpacks them at every use, forward and backward."""
    linear = sum(module.in_features * module.out_features for _, module in _four_bit_layers(base.model))
    if on_gpu or not linear or recipe.memory.base_weights == "packed":
        return False
    machine = hardware.machine()
    need = f"{4 * linear / hardware.GIB:.1f} GB"
    if not memory.unpacks(linear, recipe, machine):
        free = machine.memory_free / hardware.GIB
        notes.append(f"the 4-bit weights stay packed, which is slower: unpacked they take {need} more, {free:.1f} GB are free")
        return False
    notes.append(f"the 4-bit weights are unpacked once, which takes {need} and changes no number")
    return True


def _four_bit_layers(model) -> list[tuple[str, Any]]:
    """Name and module of the layers that bitsandbytes holds in 4 bits."""
    if not getattr(model, "is_loaded_in_4bit", False):
        return []
    import bitsandbytes

    return [(name, module) for name, module in model.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]


def _unpack(model) -> None:
    """Replace bitsandbytes' 4-bit layers by plain ones that hold the very numbers they stand for, layer by layer."""
    from bitsandbytes.functional import dequantize_4bit

    for name, module in _four_bit_layers(model):
        values = dequantize_4bit(module.weight.data, module.weight.quant_state).to(module.compute_dtype or torch.float32)
        plain = torch.nn.Linear(module.in_features, module.out_features, bias=False, device="meta", dtype=values.dtype)
        plain.weight = torch.nn.Parameter(values, requires_grad=False)
        plain.bias = module.bias
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, plain)
    # It is no 4-bit model any more, and PEFT would look for 4-bit layers.
    del model.config.quantization_config
    model.is_loaded_in_4bit = model.is_quantized = False


def _with_lora(recipe: Recipe, base: Pretrained, report: hub.Report):
    from peft import LoraConfig, PeftModel, prepare_model_for_kbit_training

    start = _start(recipe, base, report)
    plan, believed = recipe.lora, start and start[0].config
    torch.manual_seed(recipe.optimization.seed)
    model = base.model.requires_grad_(False)
    if getattr(model, "is_loaded_in_4bit", False):
        # Norms and embeddings in float32.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if recipe.memory.activation_checkpointing:
        # torch's own, non-reentrant way: it lets gradients through to LoRA though the embeddings have none.
        model.activation_checkpointing_enable({"use_reentrant": False})
    config = LoraConfig(
        r=believed.r if believed else plan.r,
        lora_alpha=believed.lora_alpha if believed else plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=sorted(adapters.lora_modules(start[1])) if start else plan.targets,
        use_rslora=believed.use_rslora if believed else False,
        rank_pattern=believed.rank_pattern if believed else {},
        alpha_pattern=believed.alpha_pattern if believed else {},
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft = PeftModel(model, config, adapter_name=_ADAPTER, autocast_adapter_dtype=True)
    except ValueError as error:
        kinds = {name.rpartition(".")[2] for name, _ in pretrained.linear_shapes(base.model)} - {"lm_head"}
        raise BadInput(trainable.no_layers(base.spec.id, plan.targets, kinds)) from error  # faults, row 5
    if any("lora_embedding_" in name for name, _ in peft.named_parameters()):
        raise BadInput(trainable.EMBEDDING)
    if start:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(peft, start[1], adapter_name=_ADAPTER)
    for name, parameter in peft.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return peft


def _start(recipe: Recipe, base: Pretrained, report: hub.Report):
    """The adapter to go on from with its tensors, checked against the base; None for a fresh one."""
    if recipe.lora.start_from in ("", "none"):
        return None
    found = adapters.find(recipe.lora.start_from, report)
    tensors = adapters.load_tensors(found)
    adapters.check_base(found, base.spec, dict(pretrained.linear_shapes(base.model)), tensors)
    return found, tensors
