"""The quantization chooser: sizes against those that were published, and what fits which machine."""

import json
from dataclasses import replace

import pytest

from engine import models, quantizations
from engine.architecture import Architecture
from engine.hardware import GIB, Gpu, Machine

METHODS = {method.id: method for method in quantizations.METHODS}
SHAPES = {size: models.MODELS[f"guanaco-{size}"].shape for size in ("7b", "13b", "33b", "65b")} | {
    "70b": models.MODELS["openorca-70b"].shape
}
LAPTOP = Machine("computer", "Linux x86_64", 4, 16 * GIB, 10 * GIB, ())
T4 = Machine("colab", "Linux x86_64", 2, 12 * GIB, 10 * GIB, (Gpu("Tesla T4", 15 * GIB, (7, 5)),))
SMALL = Machine("computer", "Linux x86_64", 2, 4 * GIB, 2 * GIB, ())


def test_they_are_those_of_the_card_in_its_order():
    assert list(METHODS) == "Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_0 Q4_1 Q4_K_S Q4_K_M Q5_0 Q5_1 Q5_K_S Q5_K_M Q6_K Q8_0".split()


@pytest.mark.parametrize(
    "size, published",
    [
        # As llama.cpp's GGUF files of Llama 2 7B were published, in GB.
        (
            "7b",
            "Q3_K_S 2.95 Q3_K_M 3.30 Q3_K_L 3.60 Q4_0 3.83 Q4_K_S 3.86 Q4_K_M 4.08 Q5_0 4.65 Q5_K_S 4.65 Q5_K_M 4.78 Q6_K 5.53 Q8_0 7.16",
        ),
        # As the Guanaco GGML files of 2023 were.
        ("13b", "Q3_K_S 5.59 Q3_K_M 6.25 Q3_K_L 6.87 Q4_0 7.32 Q4_1 8.14 Q4_K_M 7.82 Q5_0 8.95 Q5_1 9.76 Q5_K_M 9.21 Q8_0 13.83"),
        ("33b", "Q3_K_L 17.2 Q4_0 18.30 Q4_1 20.33 Q4_K_S 18.3 Q4_K_M 19.6 Q5_0 22.37 Q5_1 24.40 Q5_K_M 23.0 Q6_K 26.7 Q8_0 34.56"),
        ("65b", "Q3_K_S 28.1 Q3_K_M 31.4 Q3_K_L 34.5 Q4_0 36.7 Q4_1 40.8 Q4_K_S 36.7 Q4_K_M 39.3 Q5_0 44.9 Q5_1 49.0 Q5_K_M 46.2"),
    ],
)
def test_files_have_the_published_sizes(size, published):
    words = published.split()
    for method, gigabytes in zip(words[::2], map(float, words[1::2]), strict=True):
        assert quantizations.file_bytes(SHAPES[size], METHODS[method]) / 1e9 == pytest.approx(gigabytes, rel=0.015), method


@pytest.mark.parametrize(
    "size, bits",
    [
        ("7b", "3.50 3.91 4.27 4.58 4.84 5.52 5.68 6.56"),
        ("13b", "3.48 3.89 4.26 4.56 4.83 5.51 5.67 6.56"),
        ("70b", "3.47 3.85 4.19 4.53 4.80 5.50 5.65 6.56"),  # grouped heads
    ],
)
def test_k_quants_take_the_bits_that_llama_cpp_states(size, bits):
    methods = "Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K".split()
    for method, expected in zip(methods, map(float, bits.split()), strict=True):
        assert quantizations.bits_per_weight(SHAPES[size], METHODS[method]) == pytest.approx(expected, abs=0.025), method


def test_q2_k_is_todays_and_smaller_than_that_of_2023():
    assert quantizations.file_bytes(SHAPES["7b"], METHODS["Q2_K"]) / 1e9 == pytest.approx(2.53, rel=0.01)


def test_rows_that_k_quants_cannot_hold_take_what_llama_cpp_falls_back_to():
    starter = models.MODELS["starter"].shape  # rows of 576 and 1536, tied
    assert quantizations.file_bytes(starter, METHODS["Q4_1"]) == 96_576_768  # all tensors of the starter's own file
    attention, mlp = 2 * 576 * 576 + 2 * 576 * 192, 3 * 576 * 1536
    in_k = 576 * 1536 * 30  # ffn_down alone has rows of 1536
    rest = (attention + mlp) * 30 - in_k
    assert quantizations.file_bytes(starter, METHODS["Q6_K"]) == in_k * 210 // 256 + (rest + 49152 * 576) * 34 // 32 + 4 * 61 * 576
    odd = Architecture(2, 40, 40, 2, 2, 100)
    assert quantizations.file_bytes(odd, METHODS["Q4_K_M"]) == 2 * (odd.linear_parameters + 2 * 100 * 40) + 4 * 5 * 40


def test_tied_embeddings_are_there_once_with_the_outputs_type():
    shape = SHAPES["7b"]
    apart = quantizations.file_bytes(shape, METHODS["Q4_0"]) - quantizations.file_bytes(replace(shape, tied=True), METHODS["Q4_0"])
    assert apart == shape.vocabulary * shape.hidden // 32 * 18


def test_memory_is_near_what_the_cards_say_and_grows_with_the_cache():
    over = {
        size: (quantizations.memory_bytes(shape, METHODS["Q4_0"]) - quantizations.file_bytes(shape, METHODS["Q4_0"])) / 1e9
        for size, shape in SHAPES.items()
    }
    assert over["13b"] == pytest.approx(2.5, abs=0.3)
    assert 1.1 < over["7b"] < over["13b"] < over["33b"] < over["65b"] < 6.5
    assert over["70b"] < over["13b"], "eight heads share their keys"


@pytest.mark.parametrize(
    "machine, size, best", [(LAPTOP, "7b", "Q5_K_M"), (LAPTOP, "13b", "Q4_0"), (LAPTOP, "33b", None), (SMALL, "7b", None)]
)
def test_the_best_that_fits_is_recommended(machine, size, best):
    chosen = quantizations.recommended(SHAPES[size], machine)
    assert (chosen.id if chosen else None) == best
    rows = quantizations.table(SHAPES[size], machine)
    assert [row["method"] for row in rows if row["best"]] == ([best] if best else [])
    assert all(row["fits"] == (row["memory_bytes"] <= machine.model_ram) for row in rows)


def test_a_gpu_changes_nothing():
    assert quantizations.table(SHAPES["13b"], T4) == quantizations.table(SHAPES["13b"], replace(T4, gpus=()))


@pytest.mark.long
def test_the_command_line_prints_them_for_every_llama(run_engine):
    rows = json.loads(run_engine("models", "--quantizations", "--json").stdout)
    assert [(row["model"], row["method"]) for row in rows] == [
        (f"guanaco-{size}", method) for size in ("7b", "13b", "33b", "65b") for method in METHODS
    ]
    assert {"bits", "file_bytes", "memory_bytes", "fits", "recommended", "best", "use"} <= set(rows[0])
    text = run_engine("models", "--quantizations").stdout
    assert "guanaco-65b" in text and "36.80GB" in text and "Balanced: the usual choice." in text
