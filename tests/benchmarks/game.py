"""The blind game with 100,000 guesses stored: dealing and guessing, and 200 people at once. Targets: under 50 ms each, none lost."""

import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

STORED, GAMES, PEOPLE = 100_000, 50, 200


def main() -> None:
    import playing

    from engine.game.records import GuessRow

    deck = playing.deck(80)
    table = playing.game(deck)
    first = playing.begun(table, deck)
    playing.play(table, first, 10)
    row = playing.guesses(table, first)[0]
    began = time.perf_counter()
    fields = {name: getattr(row, name) for name in GuessRow.__dataclass_fields__}
    table.records.add(
        GuessRow(**fields | {"round": f"round{number}", "game": f"game{number // 10}", "session": f"s{number // 20}"})
        for number in range(STORED)
    )
    print(f"{len(table.records.guesses()):,} guesses stored in {time.perf_counter() - began:.1f} s")

    dealing, guessing = [], []
    for number in range(GAMES):
        session = f"visitor{number:020}"
        game = playing.begun(table, deck, session)
        while True:
            began = time.perf_counter()
            dealt = table.deal(session, game)
            dealing.append(time.perf_counter() - began)
            if not dealt:
                break
            began = time.perf_counter()
            table.guess(session, dealt.round, "left", 75, "tie")
            guessing.append(time.perf_counter() - began)
    for name, times in (("dealing", dealing), ("guessing", guessing)):
        quantiles = statistics.quantiles(times, n=100)
        print(
            f"{name}: median {1e3 * statistics.median(times):.1f} ms, 99% within {1e3 * quantiles[98]:.1f} ms, worst {1e3 * max(times):.1f} ms"
        )

    start, wrong = threading.Barrier(PEOPLE), []

    def person(number: int) -> None:
        session = f"person{number:020}"
        start.wait()
        game = playing.begun(table, deck, session)
        playing.play(table, game, 10, session)
        if (count := len(playing.guesses(table, game))) != 10 or {each.session for each in playing.guesses(table, game)} != {
            table.records.game(game).session
        }:
            wrong.append((number, count))

    threads = [threading.Thread(target=person, args=(number,)) for number in range(PEOPLE)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    print(f"{PEOPLE} people at once, 10 rounds each: {seconds:.1f} s, {PEOPLE * 10 / seconds:.0f} rounds/s, lost or mixed up: {len(wrong)}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GUANACO_HOME"] = folder
        main()
