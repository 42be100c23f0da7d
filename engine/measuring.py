"""How fast and how sharp a model is on this machine: tokens a second, and perplexity on a short text of our own.

Both are asked of a running llama.cpp server, so that they hold for the very weights and kernels that answer. Torch is not needed.
"""

import math
import statistics
from collections.abc import Sequence
from typing import Protocol

from engine.errors import EngineError

# Written for this purpose: nobody's training text holds it. About 300 tokens in most vocabularies.
TEXT = """The ferry to the island leaves at seven in the morning, long before the shops on the quay open their shutters. In winter
there are seldom more than a dozen passengers: a teacher with a bag of exercise books, two men who mend the power lines, and an old
woman who visits her sister every Thursday and always carries a cake wrapped in a tea towel. The captain knows all of them by name. He
waits for the teacher when the bus is late, although the timetable does not allow it, because a school without a teacher is a worse
thing than a ferry behind its time.

The crossing takes forty minutes. For the first half the water is calm, since the harbour wall and the headland keep off the wind.
Then the boat turns north, the cups begin to slide along the tables, and those who have made the journey often put a hand on their
coffee without looking up from the newspaper. A young engineer once asked why nobody had fixed a rail around the tables, which would
have cost very little. The captain thought about it for a while. A rail, he said, would keep the cups from falling, but it would also
keep people from noticing when the sea grows rough, and he preferred passengers who notice.

When the island comes into view, the first thing one can see is the white wall of the church, and after it the row of pear trees
that the fishermen planted a century ago to guide them home in the evening light."""
PROMPT_TOKENS = 16
DECODED_TOKENS = 64
# Of a token that ends the answer or is part of a character, the server tells no probabilities: it is made to say this one.
ANSWER = " the"
# The next token is nearly always among the first of these; where it is not, more are asked for.
CANDIDATES = (40, 1000, 2**20)


class Client(Protocol):
    """What speaks to a llama.cpp server."""

    def post(self, path: str, body: dict) -> dict:
        """The JSON object that the server answers. Raises EngineError in words for people."""


def speed(client: Client, tokens: int = DECODED_TOKENS) -> float:
    """Tokens a second at which one answer grows, as the server counts them. To compare models, let them take turns."""
    prompt = tokenized(client, TEXT)[:PROMPT_TOKENS]
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    try:
        return float(client.post("completion", body)["timings"]["predicted_per_second"])
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"The server tells no speed ({type(error).__name__}). Only llama.cpp's own server can be measured.") from error


def perplexity(client: Client, text: str = TEXT) -> float:
    """exp of the mean of -log p of every token of `text` but the first, each given all before it."""
    tokens = tokenized(client, text)
    if len(tokens) < 2:
        raise EngineError("A text of fewer than two tokens has no perplexity. Give a longer one.")
    word = tokenized(client, ANSWER)[-1]
    losses = [-logprobs(client, tokens[:place], [tokens[place]], word)[0] for place in range(1, len(tokens))]
    return math.exp(statistics.fmean(losses))


def tokenized(client: Client, text: str) -> list[int]:
    """The server's tokens of a text, with what its model puts in front of every text."""
    try:
        return [int(token) for token in client.post("tokenize", {"content": text, "add_special": True})["tokens"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"The server gives no tokens ({type(error).__name__}). Only llama.cpp's own server can be measured.") from error


def logprobs(client: Client, before: Sequence[int], tokens: Sequence[int], word: int, **more: object) -> list[float]:
    """Natural logarithms of the probabilities that the model gives to each of `tokens` after `before`, while it is made to say `word`.
    `more` goes into the request."""
    body = {"prompt": list(before), "n_predict": 1, "post_sampling_probs": False, "temperature": 0, "cache_prompt": True, **more}
    body["logit_bias"] = [[word, 1e6]]  # the probabilities that are told are those before it
    missing = list(tokens)
    for count in CANDIDATES:
        try:
            found = client.post("completion", {**body, "n_probs": count})["completion_probabilities"][0]["top_logprobs"]
            told = {each["id"]: float(each["logprob"]) for each in found}
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"The server tells no probabilities ({type(error).__name__}). Only llama.cpp's own server can be measured."
            ) from error
        missing = [token for token in tokens if token not in told]
        if not missing:
            # Where a probability is 0 in 32 bits, llama.cpp says the lowest number there is instead of minus infinity.
            return [max(told[token], math.log(1e-45)) for token in tokens]
    raise EngineError(f"The server tells no probability of token {missing[0]}. Only llama.cpp's own server can be measured.")
