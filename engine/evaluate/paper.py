"""Figures that QLoRA published (Dettmers et al., 2023, table 7, and the model card): shown, and compared with, never computed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row of the card: Elo and rank by human raters and by GPT-4 on the Vicuna prompts, by GPT-4 on OpenAssistant's, and the
    median rank. None where nothing was published."""

    system: str
    human: int
    human_rank: int
    vicuna: int
    vicuna_rank: int
    open_assistant: int | None
    open_assistant_rank: int | None
    median_rank: int


CARD = (
    Published("GPT-4", 1176, 1, 1348, 1, 1294, 1, 1),
    Published("Guanaco-65B", 1023, 2, 1022, 2, 1008, 3, 2),
    Published("Guanaco-33B", 1009, 4, 992, 3, 1002, 4, 4),
    Published("ChatGPT", 916, 7, 966, 5, 1015, 2, 5),
    Published("Vicuna-13B", 984, 5, 974, 4, 936, 5, 5),
    Published("Guanaco-13B", 975, 6, 913, 6, 885, 6, 6),
    Published("Guanaco-7B", 1010, 3, 879, 8, 860, 7, 7),
    Published("Bard", 909, 8, 902, 7, None, None, 8),
)
# Percent of ChatGPT's points (table 6).
RELATIVE = {"Guanaco-65B": 99.3, "Guanaco-33B": 97.8, "Guanaco-13B": 90.4, "Guanaco-7B": 87.0}
