"""What an assistant may call: the plain endpoints, and the same over MCP by its own client, with the pydantic that `gradio[mcp]` pins."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest
import training
from builders import until
from packaging.requirements import Requirement
from pages import Page
from test_browser import app

from engine.backends.scripted import ScriptedBackend

# Calls tools over MCP, one line of JSON each.
CLIENT = """
import asyncio, json, sys
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

async def main(address, calls):
    async with streamablehttp_client(address + "/gradio_api/mcp/") as (reading, writing, _), ClientSession(reading, writing) as session:
        await session.initialize()
        tools = (await session.list_tools()).tools
        print(json.dumps({tool.name: [tool.description, tool.inputSchema] for tool in tools}))
        for name, arguments in calls:
            done = await session.call_tool(name, arguments)
            print(json.dumps([bool(done.isError), "".join(part.text for part in done.content)]))

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


@pytest.fixture
def page():
    made = Page(ScriptedBackend(["Lima ", "it is."], seconds_per_token=0))
    yield made
    made.close()


def test_a_question_gets_its_whole_answer(page):
    client = page.client()
    assert client.predict("Name a capital.", api_name="/ask") == "Lima it is."
    with pytest.raises(Exception, match="no message to answer"):
        client.predict(" ", api_name="/ask")
    with pytest.raises(Exception, match="(?i)temperature"):
        client.predict("Hi", temperature=-1, api_name="/ask")
    with pytest.raises(Exception, match="no adapter '<b>&c'"):
        client.predict("Hi", adapter="<b>&c", api_name="/ask")
    with pytest.raises(Exception, match="limit is 32,000"):
        client.predict("x" * 40_000, api_name="/ask")
    loaded = [row["id"] for row in client.predict(api_name="/list_models") if row["loaded"]]
    assert loaded == [] or loaded == ["scripted"]


@pytest.mark.long
def test_a_public_host_tells_of_its_own_model_alone():
    page = Page(ScriptedBackend(["ok"]), read_only=True)
    try:
        assert page.client().predict(api_name="/list_models") == [{"id": "scripted", "loaded": True}]
        with pytest.raises(Exception, match="Training is off"):
            page.client().predict("any", api_name="/finetune_status")
    finally:
        page.close()


def test_how_a_run_stands(page, whole, home):
    shutil.copytree(whole[0].folder, home / "runs" / "whole")
    told = page.client().predict("whole", api_name="/finetune_status")
    assert told["status"] == "done" and told["adapter"] and told["step"] == told["steps"] and told["findings"] == []
    with pytest.raises(Exception, match="no run '<b>'"):
        page.client().predict("<b>", api_name="/finetune_status")


@pytest.fixture(scope="module")
def with_mcp(tmp_path_factory):
    """A folder of packages to go before the others: MCP, and the newest pydantic that gradio's extra allows."""
    folder = tmp_path_factory.mktemp("mcp")
    pins = [
        f"{each.metadata['name']}=={each.version}" for each in importlib.metadata.distributions() if not each.name.startswith("pydantic")
    ]
    (folder / "pins.txt").write_text("\n".join(pins))
    needed = [Requirement(each) for each in importlib.metadata.requires("gradio")]
    wanted = [f"{each.name}{each.specifier}" for each in needed if each.marker and each.marker.evaluate({"extra": "mcp"})]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--target",
        str(folder / "packages"),
        "-c",
        str(folder / "pins.txt"),
        *wanted,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return str(folder / "packages")


@pytest.mark.long
def test_an_assistant_uses_the_app_over_mcp(with_mcp, tiny, rows, home):
    recipe = training.plan(tiny, rows, optimization={"steps": 2}).to_yaml()
    calls = [
        ["ask", {"message": "Hello", "max_new_tokens": 5}],
        ["finetune_estimate", {"recipe_yaml": recipe}],
        ["finetune_start", {"recipe_yaml": recipe, "name": "by an assistant"}],
        ["finetune_status", {"run": "nowhere"}],
        ["finetune_kill", {"run": "nowhere"}],
    ]

    def call(*wanted) -> tuple[dict, list]:
        command = [sys.executable, "-c", CLIENT, url, json.dumps(wanted)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": with_mcp}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        tools, *answers = map(json.loads, done.stdout.splitlines())
        return tools, answers

    with app("--model", "scripted", PYTHONPATH=with_mcp) as url:
        tools, answers = call(*calls)
        assert list(tools) == ["ask", "list_models", "finetune_preview", "finetune_estimate", "finetune_start", "finetune_status"]
        assert all(description for description, _ in tools.values())
        assert "likeliest" in tools["ask"][1]["properties"]["temperature"]["description"]
        assert [wrong for wrong, _ in answers] == [False, False, False, True, True]
        assert answers[0][1].strip() and "this machine" in answers[1][1].lower() and "no run" in answers[3][1]
        run = answers[2][1].strip().strip('"')
        until(lambda: "'status': 'done'" in call(["finetune_status", {"run": run}])[1][0][1], 300)
        assert not any("gr.State" in line for line in url.log)
