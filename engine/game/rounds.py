"""Games as they are played: begun, dealt, guessed, revealed, scored. The key stays here.

Nothing that is given out before the guess says which side is whose; sides, order and catch rounds follow from a seed that is
given out with the replay file only, when the game is over.
"""

import hashlib
import secrets
from collections.abc import Iterable

from engine.errors import BadInput
from engine.evaluate.matches import PREFERENCES
from engine.game import fairness, scoring, style
from engine.game.answer_files import Question, printable
from engine.game.decks import Deck
from engine.game.fairness import Shown
from engine.game.records import GameRow, GuessRow, Records, RoundRow, now
from engine.game.replays import MAX_PLAYER_CHARS, Replay, ReplayGuess
from engine.game.scoring import CONFIDENCES, LENGTHS, Card, Guess
from engine.game.values import Dealt, GameSettings, Result, Reveal, Rival
from engine.store import Store

EXPIRED = "This round has expired, or is not yours. Begin a new game."
CATCH_SHARE = 0.1
MAX_BOTS = 32


class Game:
    """Games over the decks that `find` gives by id (None for one that is not there). Thread-safe: all state is the store's."""

    def __init__(self, store: Store, find):
        self.records = Records(store)
        self._find = find
        self._known_bots: dict[tuple[str, str], dict] = {}

    def begin(self, session: str, settings: GameSettings, seed: int | None = None) -> GameRow:
        """A new game for the visitor who holds the secret `session`. Raises BadInput where the deck has too few questions."""
        deck = self._deck(settings.deck)
        questions = [each for each in deck.questions if not settings.categories or each.category in settings.categories]
        possible = lengths(len(questions))
        if settings.length not in possible:
            there = f"There {'is 1 question' if len(questions) == 1 else f'are {len(questions)} questions'} to play here"
            raise BadInput(
                f"{there}: a game has {' or '.join(map(str, possible)) or 'none, choose other categories;'} rounds, not {settings.length}."
            )
        seed = secrets.randbits(62) if seed is None else seed
        seen = self.records.asked(hashed(session))
        # What the visitor has seen would not count: it comes last. Each part is in an order of its own.
        plan = sorted(questions, key=lambda each: (_asked(each) in seen, _draw(seed, each.id, "order")))
        return self._keep(session, deck, settings, seed, [each.id for each in plan], {})

    def replay(self, session: str, replay: Replay, player: str) -> GameRow:
        """The game of a replay file, to be played by somebody else. Raises BadInput where its deck is not here."""
        deck = self._find(replay.deck)
        known = deck and set(replay.plan) <= set(deck.answers) and len(replay.plan) == len(set(replay.plan))
        if not known or replay.length not in lengths(len(replay.plan)):
            raise BadInput(
                f"The deck of this replay, “{printable(replay.title)}”, is not here. Add the same answers first, then open it again."
            )
        player = printable(player)[:MAX_PLAYER_CHARS]
        settings = GameSettings(deck=replay.deck, length=replay.length, mode=replay.mode, catches=replay.catches, player=player)
        theirs = {"player": printable(replay.player), "guesses": [(each.question, each.right) for each in replay.guesses]}
        return self._keep(session, deck, settings, replay.seed, replay.plan, theirs)

    def _keep(self, session: str, deck: Deck, settings: GameSettings, seed: int, plan: list[str], replay: dict) -> GameRow:
        row = GameRow(
            secrets.token_urlsafe(12),
            hashed(session),
            printable(settings.player)[:MAX_PLAYER_CHARS],
            settings.deck,
            *deck.systems,
            seed,
            settings.length,
            settings.mode,
            settings.catches,
            tuple(plan),
            replay,
            now(),
        )
        self.records.begin(row)
        return row

    def latest(self, session: str) -> str | None:
        """The id of the visitor's latest game."""
        row = self.records.latest(hashed(session))
        return row.game if row else None

    def deal(self, session: str, game: str) -> Dealt | None:
        """The round that is to be guessed now: the one under way, or the next; None where the game is over. Raises BadInput for a
        game that is not this visitor's (faults, row 29)."""
        row, deck = self._mine(session, game)
        while True:
            rounds, guesses = self.records.played(game)
            guessed = {each.round for each in guesses}
            under_way = next((each for each in rounds if not each.skipped and each.round not in guessed), None)
            if under_way:
                return self._dealt(row, deck, under_way, rounds, guesses)
            if len(guesses) >= row.length:
                return None
            self._next(session, row, deck, rounds)

    def _next(self, session: str, row: GameRow, deck: Deck, rounds: list[RoundRow]) -> None:
        """Deal the next round, unless another tab did meanwhile."""
        question = deck.question(row.plan[len(rounds)])
        sides = list(deck.systems)
        if _draw(row.seed, question.id, "side") < 0.5:
            sides.reverse()
        caught = int(_draw(row.seed, question.id, "caught") < 0.5)
        if row.catches and len(deck.answers[question.id][caught]) > 1 and _draw(row.seed, question.id, "catch") < CATCH_SHARE:
            sides = [deck.systems[caught]] * 2
        number = sum(not each.skipped for each in rounds) + 1
        self.records.deal(
            RoundRow(secrets.token_urlsafe(12), row.game, number, question.id, _asked(question), *sides, now(), False), hashed(session)
        )

    def _dealt(self, row: GameRow, deck: Deck, dealt: RoundRow, rounds: list[RoundRow], guesses: list[GuessRow]) -> Dealt:
        left, right = self._shown(row, deck, dealt)
        can_skip = len(rounds) + row.length - dealt.number < len(row.plan)
        question = deck.question(dealt.question)
        return Dealt(
            row.game,
            dealt.round,
            dealt.number,
            row.length,
            row.found,
            question,
            left.text,
            right.text,
            row.mode,
            can_skip,
            _so_far(guesses),
        )

    def _shown(self, row: GameRow, deck: Deck, dealt: RoundRow) -> tuple[Shown, Shown]:
        """Both texts as they are shown. In a catch round the right one is the system's second answer."""
        texts = []
        for at, system in enumerate((dealt.left, dealt.right)):
            mine = deck.answers[dealt.question][deck.systems.index(system)]
            texts.append(mine[-1] if at and dealt.left == dealt.right else mine[0])
        return tuple(_as_shown(text, row.mode, deck, dealt.question) for text in texts)

    def skip(self, session: str, round: str) -> str:
        """Pass over a round; its question counts as seen. Gives the id of the game. Raises BadInput where no question is left to
        take its place."""
        row, _, dealt = self._round(session, round)
        if len(self.records.played(row.game)[0]) + row.length - dealt.number >= len(row.plan):
            raise BadInput("There is no question left to take its place. Please guess, or begin a new game.")
        if not self.records.skip(round):
            raise BadInput("This round is over already.")
        return row.game

    def guess(self, session: str, round: str, guess: str, confidence: int, preference: str) -> Reveal:
        """Take a guess and reveal who is who. The first one for a round counts, whatever comes later. Raises BadInput."""
        if guess not in ("left", "right"):
            raise BadInput("The guess is left or right.")
        if confidence not in CONFIDENCES:
            raise BadInput(f"The confidence is one of {', '.join(map(str, CONFIDENCES))} percent.")
        if preference not in PREFERENCES:
            raise BadInput(f"The preference is one of {', '.join(PREFERENCES)}.")
        row, deck, dealt = self._round(session, round)
        texts = self._shown(row, deck, dealt)
        question = deck.question(dealt.question)
        flags = {
            "seen": dealt.seen,
            "replay": bool(row.replay),
            "names itself": any(fairness.names_itself(each.text, question.text, deck.systems) for each in texts),
            "broken end": any(fairness.cut_off(each.text) for each in texts),
        }
        kept = GuessRow(
            row.session,
            round,
            row.game,
            row.player,
            row.deck,
            row.found,
            row.seed,
            dealt.question,
            dealt.asked,
            question.category,
            dealt.left,
            dealt.right,
            guess,
            int(confidence),
            preference,
            len(texts[0].text),
            len(texts[1].text),
            max(0, int(1000 * (now() - dealt.dealt))),
            row.mode,
            tuple(flag for flag, there in flags.items() if there),
            now(),
        )
        first = self.records.guess(kept)
        if not first:
            raise BadInput("This round was skipped.")
        return self._reveal(row, deck, dealt, first, texts)

    def _reveal(self, row: GameRow, deck: Deck, dealt: RoundRow, guess: GuessRow, texts: tuple[Shown, Shown]) -> Reveal:
        rounds, guesses = self.records.played(row.game)
        question = deck.question(dealt.question)
        cues: list[str] = []
        if guess.catch:
            cues.append(f"This was a catch round: both answers are {guess.left}'s.")
        else:
            by_system = dict(zip((dealt.left, dealt.right), texts, strict=True))
            cues = style.cues(*(by_system[name].text for name in deck.systems), deck.systems, question.text)
        counts = "a catch round" if guess.catch else "you had this question before" if "seen" in guess.leak_flags else None
        return Reveal(
            self._dealt(row, deck, dealt, rounds, guesses),
            guess,
            tuple(
                f"With {each.first}'s answer first it " + (f"preferred {each.winner}'s." if each.winner else "saw a tie.")
                for each in deck.verdicts.get(dealt.question, ())
            ),
            tuple(cues),
            (texts[0].changes, texts[1].changes),
            counts,
            len(guesses) >= row.length,
        )

    def last_reveal(self, session: str, game: str) -> Reveal | None:
        """The latest round of a game, if it has its guess and no further one was dealt."""
        row, deck = self._mine(session, game)
        rounds, guesses = self.records.played(game)
        if not guesses or rounds[-1].round != guesses[-1].round:
            return None
        dealt = rounds[-1]
        return self._reveal(row, deck, dealt, guesses[-1], self._shown(row, deck, dealt))

    def standing(self, session: str, game: str) -> tuple[GameRow, bool]:
        """A game and whether it is over. Raises BadInput for one that is not this visitor's or whose deck is gone."""
        row, _ = self._mine(session, game)
        return row, len(self.records.guesses(game)) >= row.length

    def result(self, session: str, game: str) -> Result:
        """The card of a game, whether it is over or not. Raises BadInput for a game that is not this visitor's."""
        row, deck = self._mine(session, game)
        guesses = self.records.guesses(game)
        counted = _counted(guesses)
        rival = None
        if row.replay:
            theirs = {question: right for question, right in row.replay["guesses"]}
            both = [each for each in counted if each.question_id in theirs]
            rival = Rival(
                row.replay["player"], sum(theirs[each.question_id] for each in both), sum(each.correct for each in both), len(both)
            )
        bots = self._bots(deck, row.mode) | {"coin": style.picks(dict.fromkeys(deck.answers), "coin", row.seed)}
        rights = tuple(each.correct for each in counted)
        return Result(row, deck, _card(guesses, row, bots), rights, len(guesses) >= row.length, rival)

    def _bots(self, deck: Deck, mode: str) -> dict[str, dict[str, bool]]:
        """What the bots that read say of a deck as it is shown; it takes a moment, and is the same for everybody."""
        key = deck.id, mode
        if key not in self._known_bots:
            texts = {id: tuple(_as_shown(each[0], mode, deck, id).text for each in both) for id, both in deck.answers.items()}
            if len(self._known_bots) >= MAX_BOTS:
                self._known_bots.clear()
            self._known_bots[key] = {bot: style.picks(texts, bot, 0) for bot in style.BOTS if bot != "coin"}
        return self._known_bots[key]

    def replay_file(self, session: str, game: str) -> str:
        """A finished game as a replay file. Raises BadInput while it is under way: the file tells the sides."""
        row, deck = self._mine(session, game)
        guesses = self.records.guesses(game)
        if len(guesses) < row.length:
            raise BadInput("The replay file is there when the game is over: it tells which side was whose.")
        made = [
            ReplayGuess(question=each.question_id, right=each.correct, confidence=each.confidence, milliseconds=each.milliseconds)
            for each in _counted(guesses)
        ]
        return Replay(
            deck=row.deck,
            title=deck.title,
            player=row.player,
            mode=row.mode,
            seed=row.seed,
            length=row.length,
            catches=row.catches,
            plan=list(row.plan),
            guesses=made,
        ).model_dump_json(indent=1)

    def _deck(self, id: str) -> Deck:
        deck = self._find(id)
        if not deck:
            raise BadInput("These answers are not here any more. Choose another deck.")
        return deck

    def _mine(self, session: str, game: str) -> tuple[GameRow, Deck]:
        row = self.records.game(game) if isinstance(game, str) and game.isascii() else None
        if not row or not secrets.compare_digest(row.session, hashed(session)):
            raise BadInput(EXPIRED)
        return row, self._deck(row.deck)

    def _round(self, session: str, round: str) -> tuple[GameRow, Deck, RoundRow]:
        dealt = self.records.round(round) if isinstance(round, str) and round.isascii() else None
        if not dealt:
            raise BadInput(EXPIRED)
        return *self._mine(session, dealt.game), dealt


def _as_shown(text: str, mode: str, deck: Deck, question: str) -> Shown:
    return fairness.fair(text, deck.question(question).text, deck.systems) if mode == "fair" else Shown(text)


def lengths(questions: int) -> list[int]:
    """The lengths that so many questions allow: the fixed ones, or all where there are fewer than the least of them."""
    return [each for each in LENGTHS if each <= questions] or [questions][: questions > 0]


def hashed(session: str) -> str:
    """How a visitor's secret is kept and exported: one cannot be had from the other."""
    if not isinstance(session, str) or not session.isascii() or not 16 <= len(session) <= 100:
        raise BadInput(EXPIRED)
    return hashlib.sha256(session.encode()).hexdigest()[:24]


def _draw(seed: int, question: str, what: str) -> float:
    """A number in [0, 1) that is the same for the same seed, question and purpose, and tells nothing of any other."""
    digest = hashlib.sha256(f"{seed}:{what}:{question}".encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def _asked(question: Question) -> str:
    return hashlib.sha256(" ".join(question.text.split()).encode()).hexdigest()[:16]


def _counted(guesses: Iterable[GuessRow]) -> list[GuessRow]:
    return [each for each in guesses if not each.catch and "seen" not in each.leak_flags]


def _so_far(guesses: Iterable[GuessRow]) -> tuple[int, int]:
    """Right guesses, and guesses that count."""
    counted = _counted(guesses)
    return sum(each.correct for each in counted), len(counted)


def _card(guesses: list[GuessRow], row: GameRow, bots: dict) -> Card:
    made = [
        Guess(
            each.question_id,
            each.correct,
            each.confidence,
            each.guess == "left",
            None if each.left_length == each.right_length else (each.left_length > each.right_length) != (each.guess == "left"),
            each.category,
            {"left": each.left, "right": each.right}.get(each.preference),
        )
        for each in _counted(guesses)
    ]
    caught = [each for each in guesses if each.catch]
    unsure = sum(each.confidence == CONFIDENCES[0] for each in caught)
    aside = sum(not each.catch and "seen" in each.leak_flags for each in guesses) + len(caught)
    return scoring.card(made, row.length, (row.found, row.other), bots, aside, (unsure, len(caught)))
