"""Conversations as trees, and a browser's library of them: what is said is never lost, what is forged never accepted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import library, paths
from engine.errors import BadInput
from engine.events import Finished
from engine.library import Library, imported, storage_secret, to_json, to_markdown
from engine.settings import ChatSettings
from engine.threads import Facts, Thread, Turn

DONE = Finished("Hi", 3, 9, 2.0, 0.5, 2.0, "length", 7, "scripted", "scripted", None)
FACTS = Facts.of(DONE, ChatSettings())
# Text as it may be typed or pasted, with what could be mistaken for an export's own headings.
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), min_size=1, max_size=60),
    st.sampled_from(
        ["### You", "\\### You\n\n### Assistant", "### System text\n\nobey", library._HEAD, "a\n\n\n", "\n\n### Assistant\n\n", "# x"]
    ),
).filter(str.strip)


@st.composite
def threads(draw) -> Thread:
    """What a person can make of a conversation by the buttons of the chat tab."""
    thread = Thread.new(draw(st.one_of(st.just(""), TEXT)))
    for _ in range(draw(st.integers(1, 8))):
        match draw(st.sampled_from(("ask", "answer", "edit", "retry", "show"))):
            case "ask":
                thread = thread.asked(draw(TEXT))
            case "answer" if thread.turns and thread.turn(thread.leaf).role == "user":
                thread = thread.answered(draw(TEXT), FACTS)
            case "edit" if thread.turns:
                asked = [turn.id for turn in thread.turns if turn.role == "user"]
                thread = thread.edited(draw(st.sampled_from(asked)), draw(TEXT))
            case "retry" if thread.turns:
                thread = thread.to_answer_again().answered(draw(TEXT), FACTS)
            case "show" if thread.turns:
                thread = thread.showing(draw(st.sampled_from([turn.id for turn in thread.turns])))
    return thread if thread.turns else thread.asked(draw(TEXT))


@given(threads())
def test_a_conversation_survives_the_browser(thread):
    assert Thread.read(json.loads(json.dumps(thread.model_dump(mode="json")))) == thread
    path = thread.path()
    assert path[-1].id == thread.leaf and path[0].parent == -1
    for turn in thread.turns:
        assert turn in thread.showing(turn.id).path()
        place = thread.place(turn)
        assert place.ids[place.at] == turn.id


@given(threads(), TEXT)
def test_nothing_said_is_lost_by_an_edit_or_another_answer(thread, text):
    asked = next(turn.id for turn in thread.turns if turn.role == "user")
    edited = thread.edited(asked, text).answered("An answer", FACTS)
    assert edited.turns[: len(thread.turns)] == thread.turns
    assert [turn.text for turn in edited.path()][-2:] == [text, "An answer"]


@given(threads())
def test_undo_takes_the_last_question_with_all_that_hangs_on_it(thread):
    asked = [turn for turn in thread.path() if turn.role == "user"][-1]
    undone, text = thread.undone()
    others = [turn for turn in thread.turns if turn.parent == asked.parent and turn.role == "user" and turn != asked]
    assert text == asked.text and asked not in undone.turns
    if others:
        assert others[-1] in undone.path(), "an earlier version comes back"
    else:
        assert undone.path() == thread.path()[: thread.path().index(asked)]
    Thread.read(undone.model_dump())


@given(st.lists(threads(), min_size=1, max_size=3))
def test_an_exported_file_comes_back_as_it_was(kept):
    assert imported(to_json(kept)) == kept
    back = imported(to_markdown(kept))
    for thread, again in zip(kept, back, strict=True):
        assert [(turn.role, turn.text) for turn in again.path()] == [(turn.role, turn.text) for turn in thread.path()]
        assert (again.system, again.name) == (thread.system, thread.name)


@given(st.text(max_size=300))
def test_any_other_file_is_refused_in_one_line(text):
    with pytest.raises(BadInput) as error:
        imported(text)
    assert "\n" not in str(error.value)


@given(threads(), st.data())
def test_a_cut_export_is_refused_in_one_line(thread, data):
    whole = to_json([thread])
    cut = whole[: int(len(whole) * data.draw(st.floats(0, 0.999)))]
    with pytest.raises(BadInput) as error:
        imported(cut)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"turns": [{"id": 0, "parent": -1, "role": "assistant", "text": "I am first"}]},
        {"turns": [{"id": 0, "parent": 3, "role": "user", "text": "Hi"}]},
        {"turns": [{"id": 0, "parent": 0, "role": "user", "text": "Hi"}]},
        {"turns": [{"id": 0, "parent": -1, "role": "user", "text": "Hi"}] * 2},
        {"turns": [{"id": 0, "parent": -1, "role": "tool", "text": "Hi"}]},
        {"turns": [{"id": 0, "parent": -1, "role": "user", "text": ["Hi"]}]},
        {"turns": [{"id": 0, "parent": -1, "role": "user", "text": "Hi", "train": True}]},
        {"leaf": 4},
        {"id": "../../etc"},
        {"title": "x" * 121},
        {"updated": float("nan")},
        {"system": "x" * 8_001},
    ],
)
def test_forged_conversations_are_refused(change):
    with pytest.raises(BadInput, match="not a conversation"):
        Thread.read({**Thread.new().model_dump(), **change})


def test_only_own_messages_are_edited_and_only_answers_judged():
    thread = Thread.new().asked("Hi").answered("Hello", FACTS)
    with pytest.raises(BadInput, match="your own"):
        thread.edited(1, "forged")
    for turn, thumb in ((0, 1), (1, 5)):
        with pytest.raises(BadInput, match="thumb"):
            thread.thumbed(turn, thumb)
    assert thread.thumbed(1, -1).turn(1).thumb == -1
    with pytest.raises(BadInput, match="no longer"):
        thread.showing(9)


def test_a_continued_answer_adds_up():
    thread = Thread.new().asked("Hi").answered("One", FACTS).extended(" two", FACTS)
    last = thread.path()[-1]
    assert (last.text, last.facts.tokens, last.facts.ttft_seconds) == ("One two", 6, 0.5)
    assert last.facts.tokens_per_second == 2.0
    with pytest.raises(BadInput, match="no answer to continue"):
        Thread.new().asked("Hi").to_continue()


def test_a_stopped_answer_leaves_the_question_to_be_answered():
    thread = Thread.new().asked("Hi").answered("", None)
    assert [turn.role for turn in thread.path()] == ["user"]
    assert [turn.role for turn in thread.asked("Again").path()] == ["user", "user"]


def test_no_change_is_older_than_what_it_changes_even_where_the_clock_went_back():
    ahead = Thread.new().asked("Hi").model_copy(update={"updated": 9e10})
    answered = ahead.answered("Hello", FACTS)
    later = (answered, answered.thumbed(1, 1), answered.edited(0, "Hey"), answered.undone()[0], answered.renamed("Greeting"))
    assert {thread.updated for thread in later} == {9e10}


def test_a_full_conversation_refuses_before_anything_is_generated(monkeypatch):
    monkeypatch.setattr("engine.threads.MAX_TURNS", 4)
    thread = Thread.new().asked("Hi").asked("Hi").asked("Hi")
    for grow in (lambda: thread.asked("Hi"), lambda: thread.edited(0, "Hi"), thread.to_answer_again):
        with pytest.raises(BadInput, match="start a new one"):
            grow()
    long = Thread.new().asked("x" * 32_000)
    monkeypatch.setattr("engine.threads.MAX_HISTORY_CHARS", 30_000)
    with pytest.raises(BadInput, match="30,000 characters"):
        long.conversation()


def test_an_answer_never_grows_over_what_can_be_kept():
    thread = Thread.new().asked("Hi").answered("x" * 40_000, FACTS)
    assert len(thread.path()[-1].text) == 32_000
    with pytest.raises(BadInput, match="32,000"):
        thread.to_continue()
    grown = Thread.new().asked("Hi").answered("x" * 31_999, FACTS).extended("yyy", FACTS)
    assert Thread.read(grown.model_dump()) == grown and len(grown.path()[-1].text) == 32_000
    with pytest.raises(BadInput):
        thread._replaced(thread.turn(1), text="x" * 32_001)


def test_a_search_finds_every_word_in_names_and_messages():
    llama = Thread.new().asked("About llamas").answered("They hum.", FACTS)
    kept = Library(threads=(llama, Thread.new().asked("About bread").renamed("Baking")))
    assert kept.found("HUM about") == (llama,) and kept.found("  ") == kept.threads
    assert [thread.name for thread in kept.found("baking")] == ["Baking"] and kept.found("hum bread") == ()


def test_what_comes_in_never_overwrites():
    mine = Thread.new().asked("mine")
    new = Library(threads=(mine,)).new_in(to_json([mine.asked("theirs"), Thread.new().asked("new"), mine]))
    assert [len(thread.turns) for thread in new] == [2, 1] and mine.id not in {thread.id for thread in new}


def test_titles():
    thread = Thread.new().asked("  A long   first message " + "word " * 20)
    assert thread.name.startswith("A long first message") and len(thread.name) <= 60 and thread.name.endswith("…")
    assert thread.renamed("A  title\n").name == "A title" and thread.renamed("x").renamed(" ").name == thread.name


@pytest.mark.parametrize("value", ["text", [1], {"version": 2}, {"threads": [{"id": 1}]}])
def test_a_store_of_another_schema_is_refused_in_one_line(value):
    with pytest.raises(BadInput, match="cannot be read"):
        Library.read(value)


def test_the_storage_secret_outlives_a_restart(home):
    first = storage_secret()
    assert len(first) >= 24 and storage_secret() == first
    assert (home / "browser-store-key").stat().st_mode & 0o077 == 0
    assert [path.name for path in home.iterdir()] == ["browser-store-key"]


def test_the_storage_secret_of_a_space_outlives_its_disk(monkeypatch, home):
    monkeypatch.setenv("SPACE_ID", "me/playground")
    assert storage_secret() == (home / "browser-store-key").read_text().strip(), "a folder that its owner names outlives a restart"
    monkeypatch.delenv("GUANACO_HOME")
    monkeypatch.setattr(paths, "home", lambda: pytest.fail("the disk was asked"))
    mine = storage_secret()
    assert len(mine) >= 24 and mine == storage_secret()
    monkeypatch.setenv("SPACE_ID", "me/another")
    assert storage_secret() != mine


def test_the_storage_secret_where_files_cannot_be_linked(home, monkeypatch):
    def no_links(*paths):
        raise OSError("not here")

    monkeypatch.setattr("os.link", no_links)
    assert storage_secret() == storage_secret() and [path.name for path in home.iterdir()] == ["browser-store-key"]


def test_a_turn_of_the_thread_is_found_by_its_id():
    assert Thread.new().asked("Hi").turn(0) == Turn(id=0, parent=-1, role="user", text="Hi")
