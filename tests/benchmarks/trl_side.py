"""The named peer of `training.py`, as a process: TRL's SFTTrainer on rows of tokens, otherwise at its defaults.

`python tests/benchmarks/trl_side.py ROWS.json MODEL STEPS` prints one JSON line; needs `pip install trl`.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    def on_train_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_train_end(self, *_, **__):
        self.seconds = time.perf_counter() - self.began


def main(rows_file: str, folder: str, steps: str) -> None:
    rows = json.loads(Path(rows_file).read_text())
    train, held_out = Dataset.from_list(rows["train"]), Dataset.from_list(rows["held_out"])
    bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=bits)
    settings = SFTConfig(
        output_dir=str(Path(rows_file).parent / "trl"),
        max_steps=int(steps),
        per_device_train_batch_size=rows["batch"],
        learning_rate=rows["learning_rate"],
        max_length=rows["max_length"],
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        completion_only_loss=True,
        seed=0,
    )
    clock = Clock()
    lora = LoraConfig(
        r=rows["r"], lora_alpha=rows["alpha"], lora_dropout=rows["dropout"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=lora,
        callbacks=[clock],
    )
    collate, tokens = trainer.data_collator, 0

    def counting(batch):
        nonlocal tokens
        tokens += sum(len(row["input_ids"]) for row in batch)
        return collate(batch)

    trainer.data_collator = counting
    # Nothing is evaluated before: on processors with AVX512-BF16 bitsandbytes then lays the weights out for answers, and training
    # computes wrong gradients from them (bitsandbytes 0.50: the loss does not fall).
    trainer.train()
    real = tokens
    after = trainer.evaluate()["eval_loss"]
    with trainer.model.disable_adapter():
        before = trainer.evaluate()["eval_loss"]
    print(json.dumps({"tokens_per_second": real / clock.seconds, "before": before, "after": after}))


if __name__ == "__main__":
    main(*sys.argv[1:])
