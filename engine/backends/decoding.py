"""Token ids to text as they come: whole characters only, in constant work for each token."""

# Tokens that one character may take (4 bytes of UTF-8). After as many the bytes are simply wrong and are given out,
# so that a model that babbles broken bytes cannot make the window grow.
LONGEST_CHARACTER = 5


class TextStream:
    """Turns ids into text piece by piece.

    A token may hold part of a character, and a tokenizer may treat the first token of a text apart, so each step
    decodes a short window twice, without and with the new token, and gives out the difference (as Hugging Face's TGI
    and vLLM do). Text is held back while it ends in U+FFFD, the sign of an unfinished character.
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = 0  # ids[:given] have become text; the window reaches back to `start`
        self._start = 0

    def _decoded(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def add(self, token: int) -> str:
        """New text that `token` completes; may be empty."""
        self._ids.append(token)
        before = self._decoded(self._ids[self._start : self._given])
        now = self._decoded(self._ids[self._start :])
        unfinished = now.endswith("\ufffd") and len(self._ids) - self._given < LONGEST_CHARACTER
        if len(now) <= len(before) or unfinished:
            return ""
        self._start, self._given = self._given, len(self._ids)
        return now[len(before) :]

    def rest(self) -> str:
        """Text still held back at the end, without the character that was never finished."""
        before = self._decoded(self._ids[self._start : self._given])
        now = self._decoded(self._ids[self._start :]).rstrip("\ufffd")
        return now[len(before) :]
