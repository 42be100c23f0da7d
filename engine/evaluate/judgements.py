"""What a judge said, taken together: how sure it was, and whether it favours what it sees first; and where judgements are kept."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import paths
from engine.evaluate.instructions import KINDS, UNPARSED, Kind
from engine.game import scoring
from engine.game.scoring import Share


@dataclass(frozen=True)
class Summary:
    """`unparsed` verdicts could not be read, `cut_off` answers of the judge reached its limit. Of pairs with a verdict in both orders:
    `first` is how often the answer that stood first won, ties aside (half is no bias), `same` how often both orders ended alike.
    Tokens are as the server counted them."""

    judgements: int
    unparsed: int
    cut_off: int
    first: Share
    same: Share
    tokens_in: int
    tokens_out: int


def summary(kind: Kind, rows: Sequence[Mapping]) -> Summary:
    """Of rows of the published rating schema that were written here."""
    both: dict[tuple, list[tuple[str, float]]] = defaultdict(list)
    for row in rows:
        if row["score"] != UNPARSED[kind]:
            ids = row["answer1_id"], row["answer2_id"]
            both[row["question_id"], frozenset(ids)].append((ids[0], _first(kind, row["score"])))
    whole = [pair for pair in both.values() if len(pair) == 2]
    won = [score for pair in whole for _, score in pair if score != 0.5]
    same = sum(pair[0][1] == 1 - pair[1][1] for pair in whole)
    about = [row["metadata"] for row in rows]
    return Summary(
        len(rows),
        sum(row["score"] == UNPARSED[kind] for row in rows),
        sum(each["finish_reason"] == "length" for each in about),
        scoring.share(sum(score == 1 for score in won), len(won)),
        scoring.share(same, len(whole)),
        sum(each["tokens_in"] for each in about),
        sum(each["tokens_out"] for each in about),
    )


def _first(kind: Kind, score) -> float:
    """1 where the answer that stood first won, 0 where the other did, 0.5 for a tie."""
    if kind == "threeclass":
        return {1: 1.0, 2: 0.0, 3: 0.5}[score]
    return 0.5 if score[0] == score[1] else float(score[0] > score[1])


def folder(judge: str, data: str, kind: Kind) -> Path:
    """Where judgements of a set of questions are kept, where nobody says otherwise: the leaderboard reads them there."""
    name = f"{judge} on {Path(data).stem}"
    return paths.judgements() / re.sub(r"[^\w .()+,-]+", "-", name) / kind


def kept() -> dict[str, dict[Kind, Path]]:
    """The folders of judgements below `GUANACO_HOME`, by judge and set, then by kind."""
    found = {
        each.name: {kind: each / kind for kind in KINDS if any((each / kind).glob("*.jsonl"))}
        for each in sorted(paths.judgements().iterdir())
    }
    return {name: kinds for name, kinds in found.items() if kinds}
