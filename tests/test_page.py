"""The page through its API, as any stranger may call it (faults, rows 1, 14, 16, 26; the Gradio notes)."""

import contextlib
import http.client
import json
import urllib.error
import urllib.request

import pytest
from pages import DEFAULTS, Page, ask, said, text, until

from engine.backends.scripted import ScriptedBackend
from engine.messages import MAX_MESSAGE_CHARS


@pytest.fixture(scope="module")
def page():
    made = Page(ScriptedBackend(["one ", "two ", "three"], seconds_per_token=0))
    yield made
    made.close()


def test_a_stranger_can_chat_through_the_api(page):
    rows, facts, *_ = ask(page.client()).result(timeout=30)
    assert [row["role"] for row in rows] == ["user", "assistant"]
    assert text(rows[-1]) == "one two three"
    assert facts.startswith("3 tokens · ") and "ended by itself" in facts


def test_history_is_taken_and_retry_answers_again(page):
    client = page.client()
    rows = ask(client).result(timeout=30)[0]
    again = client.submit(rows, "none", "", *DEFAULTS, api_name="/retry").result(timeout=30)[0]
    assert [text(row) for row in again] == ["Hello", "one two three"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"message": "x" * (MAX_MESSAGE_CHARS + 1)}, "limit is 32,000"),
        ({"message": "  "}, "Write a message"),
        ({"history": [said("system", "obey")]}, "role user or assistant"),
        ({"history": [said("user", "x" * 30_000)] * 20}, "characters"),
        ({"system": "x" * 9_000}, "system text"),
        ({"adapter": "/etc/passwd"}, "adapter"),
        ({"settings": [99, *DEFAULTS[1:]]}, "99|2"),
        ({"settings": [*DEFAULTS[:4], 10**9, *DEFAULTS[5:]]}, "4096"),
    ],
)
def test_what_is_out_of_bounds_is_refused_on_the_server(page, arguments, words):
    produced = page.backend.produced
    with pytest.raises(Exception, match=words):
        ask(page.client(), **arguments).result(timeout=30)
    assert page.backend.produced == produced


def raw_chat(page, message: str, session: str) -> str:
    """Post to the queue as no Gradio client would; gives the event stream."""
    config = json.load(urllib.request.urlopen(page.url + "/config"))
    index = next(each["id"] for each in config["dependencies"] if each["api_name"] == "chat")
    body = json.dumps({"fn_index": index, "session_hash": session, "data": [message, [], "none", "", *DEFAULTS]}).encode()
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
        for _ in range(6):
            connection.send(b"%x\r\n" % 2**20 + b" " * 2**20 + b"\r\n")
        connection.send(b"0\r\n\r\n")
    assert connection.getresponse().status in (400, 413)  # FastAPI words a body that breaks off as 400


def test_an_upload_over_the_limit_is_refused(page):
    boundary = "x"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n'.encode()
        + b"a" * (21 * 2**20)
        + f"\r\n--{boundary}--\r\n".encode()
    )
    request = urllib.request.Request(page.url + "/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60)
    assert error.value.code == 413


def test_every_action_is_a_named_endpoint(page):
    named = set(page.client().view_api(return_format="dict")["named_endpoints"])
    assert named >= {"/chat", "/retry", "/stop", "/clear", "/load_model", "/status"}
    config = json.load(urllib.request.urlopen(page.url + "/config"))
    assert all(each["api_name"] for each in config["dependencies"] if each["targets"])


def test_nothing_to_see_for_monitors(page):
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(page.url + "/gradio_api/monitoring", timeout=10)
    config = json.load(urllib.request.urlopen(page.url + "/config"))
    assert not config.get("analytics_enabled")


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
    facts = job.result(timeout=10)[1]
    assert "stopped by you" in facts
    assert endless.backend.produced <= at_stop + 3


def test_one_visitors_stop_leaves_anothers_answer_alone(endless):
    mine, other = endless.client(), endless.client()
    job = ask(mine, settings=[*DEFAULTS[:4], 200, None])
    until(lambda: endless.backend.produced > 2)
    other.predict(api_name="/stop")
    assert "cut at the longest answer" in job.result(timeout=30)[1]


def test_a_client_that_goes_away_ends_generation(endless):
    """The event stream is cut as a closed tab cuts it; generation ends and the thread with it."""
    config = json.load(urllib.request.urlopen(endless.url + "/config"))
    index = next(each["id"] for each in config["dependencies"] if each["api_name"] == "chat")
    body = json.dumps({"fn_index": index, "session_hash": "gone", "data": ["Hi", [], "none", "", *DEFAULTS[:4], 4096, None]}).encode()
    urllib.request.urlopen(
        urllib.request.Request(endless.url + "/gradio_api/queue/join", body, {"Content-Type": "application/json"}), timeout=30
    ).read()
    stream = urllib.request.urlopen(endless.url + "/gradio_api/queue/data?session_hash=gone", timeout=30)
    until(lambda: endless.backend.produced > 5)
    stream.close()
    until(lambda: not endless.runtime._answering.locked(), 5)
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
    assert text(ask(client).result(timeout=30)[0][-1]) == "ok"
    for name in ("someone/model", "/etc", "guanaco-7b"):
        with pytest.raises(Exception, match="public host|not in the list"):
            client.predict(name, api_name="/load_model")
    with pytest.raises(Exception, match="public host|not in the list"):
        ask(client, adapter="someone/adapter").result(timeout=30)
