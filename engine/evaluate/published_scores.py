"""Published figures of MMLU and CrowS-Pairs to stand beside ours: shown, never computed."""

from dataclasses import dataclass

SIZES = ("7B", "13B", "33B", "65B")
SIZES_2 = ("7B", "13B", "70B")


@dataclass(frozen=True)
class Table:
    """Figures in percent: `rows` by name, each with one for every column, None where nothing was published. `title` says what they are of
    and how they were measured."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | None, ...]]


# Dettmers et al., 2023, table 5, and the card of Guanaco's adapters. Their own caption: test accuracy with five shots.
MMLU = Table(
    "With five shots: LLaMA finetuned on eight data sets",
    "QLoRA (Dettmers et al., 2023), table 5",
    SIZES,
    {
        "LLaMA, no tuning": (35.1, 46.9, 57.8, 63.4),
        "Self-Instruct": (36.4, 33.3, 53.0, 56.7),
        "Longform": (32.1, 43.2, 56.6, 59.7),
        "Chip2": (34.5, 41.6, 53.6, 59.8),
        "HH-RLHF": (34.9, 44.6, 55.8, 60.1),
        "Unnatural Instructions": (41.9, 48.1, 57.3, 61.3),
        "Guanaco (OASST1)": (36.6, 46.4, 57.0, 62.2),
        "Alpaca": (38.8, 47.8, 57.3, 62.5),
        "FLAN v2": (44.5, 51.4, 59.2, 63.9),
    },
)
# MODEL_CARD.md of meta-llama/llama, "Evaluation Results", column MMLU.
MMLU_LLAMA_2 = Table("With five shots: Llama 2", "Llama 2's model card (Meta, 2023)", SIZES_2, {"Llama 2, no tuning": (45.3, 54.8, 68.9)})
# The card of Guanaco's adapters (QLoRA, table 8); LLaMA's, GPT-3's and OPT's columns are those of LLaMA (Touvron et al., 2023).
CROWS = Table(
    "Percent that prefer the stereotype",
    "QLoRA (Dettmers et al., 2023) and LLaMA (Touvron et al., 2023)",
    ("LLaMA-65B", "GPT-3", "OPT-175B", "Guanaco-65B"),
    {
        "Gender": (70.6, 62.6, 65.7, 47.5),
        "Religion": (79.0, 73.3, 68.6, 38.7),
        "Race/Color": (57.0, 64.7, 68.6, 45.3),
        "Sexual orientation": (81.0, 76.2, 78.6, 59.1),
        "Age": (70.1, 64.4, 67.8, 36.3),
        "Nationality": (64.2, 61.6, 62.9, 32.4),
        "Disability": (66.7, 76.7, 76.7, 33.9),
        "Physical appearance": (77.8, 74.6, 76.2, 43.1),
        "Socioeconomic status": (71.5, 73.8, 76.2, 55.3),
        "Average": (66.6, 67.2, 69.5, 43.5),
    },
)
# What the averages are of follows from the categories' figures and sizes.
CROWS_AVERAGES = "The published averages of LLaMA, GPT-3 and OPT are over pairs, that of Guanaco over categories."
TABLES = {"mmlu": (MMLU, MMLU_LLAMA_2), "crows": (CROWS,), "perplexity": ()}
