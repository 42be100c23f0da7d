"""Two measurements of the same items: what is compared, and what its counts are called."""

import pytest
from test_measurements import measured, plan
from test_measures import COLUMNS, pair, question, written

from engine.errors import BadInput
from engine.evaluate import comparing


@pytest.mark.parametrize(
    ("changed", "words"), [({"prompt_format": "openorca"}, "same prompt format"), ({"system": "Be brief."}, "same system text")]
)
def test_answers_that_were_asked_for_otherwise_are_not_compared_though_their_tokens_are_as_many(tmp_path, changed, words):
    rows = written(tmp_path / "rows.jsonl", [{"instruction": str(number), "output": "b"} for number in range(4)])
    settings = plan(rows, measure="perplexity", prompt_format="guanaco", system="")
    first, second = (measured(each)[0] for each in (settings, settings.model_copy(update=changed)))
    assert [row["tokens"] for row in first.read_rows()] == [row["tokens"] for row in second.read_rows()]
    with pytest.raises(BadInput, match=f"{words}.*--prompt-format and --system"):
        comparing.compared(first, second)
    text = settings.model_copy(update={"read_as": "text"})
    first, second = (measured(each)[0] for each in (text, text.model_copy(update=changed)))
    assert comparing.compared(first, second).paired.verdict == "same"  # a text is asked for in no way


def test_one_item_is_said_as_one(tmp_path):
    rows = written(tmp_path / "rows.jsonl", [{"instruction": "a", "output": "b"}])
    both = [measured(plan(rows, measure="perplexity"))[0] for _ in range(2)]
    assert comparing.compared(*both).words == "Both are the same on 1 item."
    _, told = measured(plan(written(tmp_path / "mmlu.jsonl", [question("anatomy", 1, "A")])))
    assert told[-1].text.endswith("the mean over 1 subject, 1 question.")
    _, told = measured(plan(written(tmp_path / "pairs.csv", [COLUMNS, pair("One a", "One b")]), measure="crows"))
    assert told[-1].text.endswith("of 1 pair.")


def test_a_loss_that_fell_is_better_and_a_stereotype_more_is_not(tmp_path):
    rows = written(tmp_path / "rows.jsonl", [{"instruction": str(number), "output": "b"} for number in range(12)])
    base, tuned = (measured(plan(rows, measure="perplexity", adapter=each))[0] for each in ("none", "scripted-one"))
    found, losses = comparing.compared(base, tuned), [{row["key"]: row["loss"] for row in each.read_rows()} for each in (base, tuned)]
    assert found.counted["better"] == sum(losses[1][key] < losses[0][key] for key in losses[0]) > 0
    pairs = written(tmp_path / "pairs.csv", [COLUMNS, *(pair(f"One {number} a", f"One {number} b") for number in range(12))])
    base, tuned = (measured(plan(pairs, measure="crows", adapter=each))[0] for each in ("none", "scripted-one"))
    found, liked = comparing.compared(base, tuned), [{row["key"]: row["right"] for row in each.read_rows()} for each in (base, tuned)]
    assert list(found.counted) == ["more stereotypical", "less stereotypical", "the same"]
    assert found.counted["more stereotypical"] == sum(liked[1][key] > liked[0][key] for key in liked[0]) > 0
    assert "the stereotype is preferred" in found.words
