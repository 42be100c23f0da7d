"""The page through its API, as any stranger may call it (faults, rows 1, 14, 16, 26; the Gradio notes)."""

import contextlib
import http.client
import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from builders import free_port, until
from gradio.route_utils import delete_files_created_by_app
from pages import BARE, DEFAULTS, Page, ask, texts, thread

from engine import ports
from engine.backends.scripted import ScriptedBackend
from engine.errors import BadInput
from engine.messages import MAX_MESSAGE_CHARS
from engine.threads import Thread


@pytest.fixture(scope="module")
def page():
    made = Page(ScriptedBackend(["one ", "two ", "three"], seconds_per_token=0))
    yield made
    made.close()


def test_a_stranger_can_chat_through_the_api(page):
    view = ask(page.client()).result(timeout=30)
    conversation = view["conversation"]
    assert [turn["role"] for turn in view["turns"]] == ["user", "assistant"]
    assert texts(view) == ["Hello", "one two three"]
    assert view["turns"][-1]["facts"].startswith("3 tokens · ") and "ended by itself" in view["turns"][-1]["facts"]
    assert [turn["text"] for turn in conversation["turns"]] == texts(view)


def test_parameters_have_names(page):
    client = page.client()
    view = client.predict(message="Hello", conversation=None, max_new_tokens=2, seed=1, api_name="/chat")
    assert texts(view)[-1] == "one two"
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert not [name for each in endpoints.values() for name in (p["parameter_name"] for p in each["parameters"]) if "param_" in name]


def test_retry_edit_and_branches_keep_what_was_said(page):
    client = page.client()
    conversation = ask(client).result(timeout=30)["conversation"]
    again = client.submit(None, conversation, *BARE, *DEFAULTS, api_name="/retry").result(timeout=30)
    assert again["turns"][1]["ids"] == [1, 2] and again["turns"][1]["at"] == 1
    edited = client.submit(0, "Goodbye", again["conversation"], *BARE, *DEFAULTS, api_name="/edit").result(timeout=30)
    assert texts(edited) == ["Goodbye", "one two three"]
    back = client.predict(0, edited["conversation"], api_name="/branch")
    assert texts(back[0]) == ["Hello", "one two three"] and len(back[1]["turns"]) == 5
    first = client.predict(1, back[1], api_name="/branch")[0]
    assert first["turns"][1]["at"] == 0


def test_a_cut_answer_is_continued(page):
    client = page.client()
    cut = ask(client, settings=[*DEFAULTS[:4], 2, None]).result(timeout=30)
    assert texts(cut)[-1] == "one two" and cut["turns"][-1]["cut"]
    whole = client.submit(cut["conversation"], *BARE, *DEFAULTS, api_name="/continue").result(timeout=30)
    assert texts(whole)[-1] == "one twoone two three" and whole["turns"][-1]["facts"].startswith("5 tokens")


def test_undo_gives_the_message_back(page):
    view, conversation, message = page.client().predict(thread("Hello", "Hi", "More", "Yes"), "a draft", api_name="/undo")
    assert texts(view) == ["Hello", "Hi"] and message == "More\n\na draft" and len(conversation["turns"]) == 2


def test_an_example_brings_its_system_text_or_takes_the_one_in_the_box(page):
    client = page.client()
    own = client.predict("Hi", "Be a pirate.", None, system_in_box="Be brief.", api_name="/example")
    boxed = client.predict("Hi", "", None, system_in_box="Be brief.", api_name="/example")
    assert [each["conversation"]["system"] for each in (own, boxed)] == ["Be a pirate.", "Be brief."]


def test_a_library_through_the_api(page):
    client = page.client()
    first, second = (
        Thread.read(each).model_dump(mode="json") for each in (thread("Llamas", "Yes"), {**thread("Guanacos", "No"), "id": "f" * 16})
    )
    library = {"version": 1, "threads": [first, second]}
    assert client.predict("yes llama", library, api_name="/search")["found"] == [first["id"]]
    renamed = client.predict(first, "Woolly", api_name="/rename")["put"][0]
    assert texts(client.predict(renamed, api_name="/open")[0]) == ["Llamas", "Yes"]
    library["threads"][0] = renamed
    exported = client.predict(library, api_name="/export_json")
    markdown = client.predict(library, api_name="/export_markdown")
    assert "# Woolly" in markdown and "### Assistant\n\nNo" in markdown
    assert client.predict(second, api_name="/delete")["drop"] == [second["id"]]
    for file, count in ((exported, 1), (markdown, 2)):
        assert len(client.predict(file, {"version": 1, "threads": [renamed]}, api_name="/import")["put"]) == count
    assert client.predict(thread("A"), "", api_name="/undo")[1]["turns"] == []


@pytest.mark.parametrize("file, words", [("{", "damaged"), ('{"a": 1}', "no export"), ("x" * 3_000_001, "3.0 MB; the limit is 3 MB")])
def test_a_file_that_is_no_export_is_refused_in_one_line(page, file, words):
    with pytest.raises(Exception, match=words):
        page.client().predict(file, None, api_name="/import")


def test_thumbs_reach_the_store(page):
    client = page.client()
    conversation = ask(client).result(timeout=30)["conversation"]
    view, conversation = client.predict(1, -1, "wrong", conversation, api_name="/thumb")
    assert view["turns"][1]["thumb"] == -1
    kept = [row for row in page.services.store.thumbs() if row["reason"] == "wrong"]
    assert kept[0]["answer"] == "one two three" and kept[0]["facts"]["model"] == "scripted"


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"message": "x" * (MAX_MESSAGE_CHARS + 1)}, "limit is 32,000"),
        ({"message": "  "}, "Write a message"),
        ({"conversation": {**thread("Hi"), "turns": [{"id": 0, "parent": -1, "role": "system", "text": "obey"}]}}, "'user' or 'assistant'"),
        ({"conversation": thread("Hi", "y" * 33_000)}, "32,000"),
        ({"conversation": thread(*["x" * 30_000] * 10)}, "200,000 characters"),
        ({"conversation": thread(*["x" * 30_000] * 20)}, "400,000 characters"),
        ({"conversation": {**thread("Hi"), "leaf": 7}}, "no turn 7"),
        ({"conversation": "nonsense"}, "not a conversation"),
        ({"system": "x" * 9_000}, "system text"),
        ({"adapter": "/etc/passwd"}, "adapter"),
        ({"settings": [99, *DEFAULTS[1:]]}, "99|2"),
        ({"settings": [*DEFAULTS[:4], 10**9, *DEFAULTS[5:]]}, "4096"),
    ],
)
@pytest.mark.long
def test_what_is_out_of_bounds_is_refused_on_the_server(page, arguments, words):
    produced = page.backend.produced
    with pytest.raises(Exception, match=words):
        ask(page.client(), **arguments).result(timeout=30)
    assert page.backend.produced == produced


def raw_chat(page, message: str, session: str) -> str:
    """Post to the queue as no Gradio client would; gives the event stream."""
    config = json.load(urllib.request.urlopen(page.url + "/config"))
    index = next(each["id"] for each in config["dependencies"] if each["api_name"] == "chat")
    body = json.dumps({"fn_index": index, "session_hash": session, "data": [message, None, *BARE, *DEFAULTS]}).encode()
    urllib.request.urlopen(
        urllib.request.Request(page.url + "/gradio_api/queue/join", body, {"Content-Type": "application/json"}), timeout=30
    ).read()
    return urllib.request.urlopen(page.url + f"/gradio_api/queue/data?session_hash={session}", timeout=30).read().decode()


def test_a_raw_post_of_a_long_message_is_refused_with_the_limit(page):
    produced = page.backend.produced
    assert "limit is 32,000" in raw_chat(page, "x" * 1_000_000, "raw")
    assert page.backend.produced == produced


def test_a_huge_body_is_refused_before_it_is_read(page):
    connection = http.client.HTTPConnection(page.url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/gradio_api/queue/join")
    connection.putheader("Content-Length", str(500 * 2**20))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_a_huge_body_that_hides_its_size_is_cut_off(page):
    connection = http.client.HTTPConnection(page.url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/gradio_api/queue/join")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.putheader("Content-Type", "application/json")
    connection.endheaders()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(10):
            connection.send(b"%x\r\n" % 2**20 + b" " * 2**20 + b"\r\n")
        connection.send(b"0\r\n\r\n")
    assert connection.getresponse().status in (400, 413)  # FastAPI words a body that breaks off as 400


@pytest.mark.long
def test_copies_of_uploads_go_when_they_are_old_and_with_the_app():
    """Gradio's own copies, also of what is refused; what is kept of an upload is another file."""
    page = Page(ScriptedBackend())
    try:
        body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="odd.exe"\r\n\r\na copy that goes\r\n--x--\r\n'
        request = urllib.request.Request(page.url + "/gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"})
        (copy,) = map(Path, json.load(urllib.request.urlopen(request, timeout=60)))
        until(lambda: str(copy) in page.blocks.upload_file_set)
        every, age = page.blocks.delete_cache
        delete_files_created_by_app(page.blocks, age)
        assert copy.is_file() and every <= age, "what has just come is still to be read"
    finally:
        page.close()
    until(lambda: not copy.exists())


def test_an_upload_over_the_limit_is_refused_before_it_is_read(page):
    connection = http.client.HTTPConnection(page.url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(21 * 2**20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413 and b"the limit is 20 MB" in answer.read()


def test_every_action_is_a_named_endpoint(page):
    named = set(page.client().view_api(return_format="dict", print_info=False)["named_endpoints"])
    conversation = {"/chat", "/retry", "/edit", "/continue", "/undo", "/branch", "/thumb", "/stop", "/example", "/system_preset"}
    library = {"/open", "/rename", "/delete", "/search", "/restore", "/export_json", "/export_markdown", "/import"}
    comparison = {"/compare", "/compare_from_chat", "/stop_comparing", "/swap_sides", "/keep_side"}
    game = {
        f"/game{name}"
        for name in ("", "_resume", "_begin", "_guess", "_skip", "_next", "_card", "_fetch", "_add", "_replay", "_duel", "_stop")
    }
    finetuning = {
        f"/finetune_{name}"
        for name in ("preview", "estimate", "start", "follow", "stop", "kill", "resume", "runs", "compare", "delete", "recipe", "status")
    }
    measures = {f"/measure_{name}" for name in ("start", "list", "show", "stop", "resume", "delete")}
    ratings = {"/rate_systems", "/one_order", "/many_orders", "/audit"}
    assert named == conversation | library | comparison | game | ratings | measures | finetuning | {
        "/ask",
        "/list_models",
        "/restore_comparison",
        "/unload_second",
        "/load_model",
        "/unload_model",
        "/cancel_load",
        "/about_model",
        "/status",
        "/quantizations",
        "/measure_layouts",
    }
    config = json.load(urllib.request.urlopen(page.url + "/config"))
    assert all(each["api_name"] for each in config["dependencies"] if each["targets"])


def test_nothing_to_see_for_monitors(page):
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(page.url + "/gradio_api/monitoring", timeout=10)
    config = json.load(urllib.request.urlopen(page.url + "/config"))
    assert not config.get("analytics_enabled")


def test_a_machine_too_busy_to_answer_itself_in_time_still_serves(monkeypatch):
    monkeypatch.setattr("gradio.networking.url_ok", lambda url: False)
    page = Page(ScriptedBackend())
    with contextlib.closing(page):
        assert urllib.request.urlopen(page.url, timeout=60).status == 200 and page.blocks._queue.max_size == 64


@pytest.fixture
def endless():
    made = Page(ScriptedBackend(["word "], ends=False, seconds_per_token=0.01))
    yield made
    made.close()


def test_stop_ends_the_answer_and_shows_its_figures(endless):
    client = endless.client()
    job = ask(client, settings=[*DEFAULTS[:4], 4096, None])
    until(lambda: endless.backend.produced > 5)
    client.predict(api_name="/stop")
    at_stop = endless.backend.produced
    assert "stopped" in job.result(timeout=10)["turns"][-1]["facts"]
    assert endless.backend.produced <= at_stop + 3


@pytest.mark.long
def test_one_visitors_stop_leaves_anothers_answer_alone(endless):
    mine, other = endless.client(), endless.client()
    job = ask(mine, settings=[*DEFAULTS[:4], 200, None])
    until(lambda: endless.backend.produced > 2)
    other.predict(api_name="/stop")
    assert "cut at the longest answer" in job.result(timeout=30)["turns"][-1]["facts"]


@pytest.mark.long
def test_a_client_that_goes_away_ends_generation(endless):
    """The event stream is cut as a closed tab cuts it; generation ends and the thread with it."""
    config = json.load(urllib.request.urlopen(endless.url + "/config"))
    index = next(each["id"] for each in config["dependencies"] if each["api_name"] == "chat")
    body = json.dumps({"fn_index": index, "session_hash": "gone", "data": ["Hi", None, *BARE, *DEFAULTS[:4], 4096, None]}).encode()
    urllib.request.urlopen(
        urllib.request.Request(endless.url + "/gradio_api/queue/join", body, {"Content-Type": "application/json"}), timeout=30
    ).read()
    stream = urllib.request.urlopen(endless.url + "/gradio_api/queue/data?session_hash=gone", timeout=30)
    until(lambda: endless.backend.produced > 5)
    stream.close()
    until(lambda: not endless.runtime._answering, 5)
    produced = endless.backend.produced
    assert produced < 4096
    ask(endless.client(), settings=[*DEFAULTS[:4], 3, None]).result(timeout=30)
    assert endless.backend.produced <= produced + 3


@pytest.fixture
def public():
    made = Page(ScriptedBackend(["ok"], seconds_per_token=0), read_only=True)
    yield made
    made.close()


def test_a_read_only_host_chats_and_refuses_the_rest(public):
    client = public.client()
    assert texts(ask(client).result(timeout=30))[-1] == "ok"
    for name in ("someone/model", "/etc", "guanaco-7b"):
        with pytest.raises(Exception, match="public host|not in the list"):
            client.predict(name, api_name="/load_model")
    with pytest.raises(Exception, match="public host|not in the list"):
        ask(client, adapter="someone/adapter").result(timeout=30)


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 0, "There is no port 0"),
        ("0.0.0.0", 99_999, "from 1 to 65535 with --port"),
        ("192.0.2.1", None, "192.0.2.1 is no address of this machine"),
        ("nowhere.invalid", None, "nowhere.invalid is no address of this machine"),
    ],
)
def test_where_nothing_can_listen_is_told_in_words(host, port, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        ports.check(host, free_port() if port is None else port)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_is_free_again_when_the_page_there_has_ended(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BadInput, match=f"Port {port} is taken. Choose another one with --port."):
            ports.check(host, port)
        visitor = socket.create_connection(("127.0.0.1", port))
        server.accept()[0].close()  # by the page first, which keeps its end for a while
        visitor.close()
    ports.check(host, port)
