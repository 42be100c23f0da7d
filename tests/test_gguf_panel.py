"""Blends, layouts and quantizations as a person chooses them on the page."""

import shutil
import threading

import browser
import builders
import pytest
from builders import until
from pages import Page, ask

from engine import layout_figures, models
from engine.backends.scripted import ScriptedBackend
from engine.errors import BadInput, EngineError
from engine.events import Progress
from engine.runtime import Runtime
from engine.services import Services
from ui import gguf

ROWS = [
    {"layout": "sharper", "quantization": "Q4_1", "bytes": 98, "tokens_per_second": 60.2, "perplexity": 36.25},
    {"layout": "faster", "quantization": "IQ4_NL", "bytes": 78, "tokens_per_second": 90.7, "perplexity": 41.45},
]


@pytest.fixture
def served():
    made = Page(ScriptedBackend(seconds_per_token=0))
    yield made
    made.close()


def pick(page, label: str, value: str) -> None:
    """Type into a picker, and leave it."""
    page.fill(f"input[aria-label='{label}']", value)
    page.press(f"input[aria-label='{label}']", "Tab")


@pytest.mark.long
@browser.needs_chromium
def test_an_adapter_has_a_strength_and_another_can_be_mixed_in(served):
    with browser.opened(served.url) as page:
        pick(page, "Adapter", "scripted-one")
        page.fill("#settings-panel .strength input[type=number]", "0.4")
        page.press("#settings-panel .strength input[type=number]", "Tab")
        browser.ask(page, "Hi")
        assert browser.said(page)[-1].startswith("[scripted-one × 0.4]")
        page.click("#settings-panel .mix button")
        pick(page, "Mixed in", "scripted-two")
        browser.act(page, "Answer again")
        page.wait_for_selector("#conversation >> text=[scripted-one × 0.4 + scripted-two]")
        browser.wait_facts(page, "tokens")
        page.fill("#settings-panel .strength input[type=number]", "0")
        page.press("#settings-panel .strength input[type=number]", "Tab")
        browser.act(page, "Answer again")
        page.wait_for_selector("#conversation .message.bot .body >> text=[scripted-two]")
        assert not page.errors and not page.outside


@pytest.mark.long
@browser.needs_chromium
def test_the_chooser_fills_the_model_picker(served):
    with browser.opened(served.url) as page:
        page.click("#chooser button")
        page.wait_for_selector("#quantizations >> text=Q4_K_M")
        assert page.locator("#quantizations tr:has(th[scope=row])").count() == 14
        page.fill("#chooser textarea, #chooser input[type=text], #chooser input:not([role])", "someone/guanaco-33B-GGUF")
        page.click("#pick-quantization")
        page.wait_for_function("document.querySelector('input[aria-label=Model]').value === 'someone/guanaco-33B-GGUF:Q4_K_M'")
        page.wait_for_selector("#layout", state="visible")


def test_a_strength_out_of_bounds_is_refused(served):
    client = served.client()
    with pytest.raises(Exception, match="1.5"):
        client.predict(message="Hi", conversation=None, adapter="scripted-a", strength=1.6, api_name="/chat")
    answer = client.predict(message="Hi", conversation=None, adapter="scripted-a", strength=0.5, mixed_in="scripted-b", api_name="/chat")
    assert answer["turns"][-1]["text"].startswith("[scripted-a × 0.5 + scripted-b]")
    assert "adapter scripted-a × 0.5 + scripted-b" in answer["turns"][-1]["detail"]
    assert ask(client).result(timeout=30)["turns"][-1]["text"][:1] != "["


def test_layouts_are_offered_for_what_llama_cpp_runs(home, tiny_gguf, monkeypatch):
    services = Services(Runtime())
    assert services.has_layouts("starter") and services.has_layouts(str(tiny_gguf)) and services.has_layouts("qwen2.5-0.5b")
    assert not any(services.has_layouts(name) for name in ("scripted", "guanaco-7b", "no such model", ""))
    assert not Services(Runtime(), read_only=True).has_layouts("starter")
    assert "not measured yet" in gguf.figures(services, str(tiny_gguf))
    spec = models.resolve(str(tiny_gguf))
    layout_figures._keep(spec.gguf_path, ROWS)
    assert layout_figures.kept(spec) == ROWS
    shown = gguf.figures(services, str(tiny_gguf))
    assert "60 tokens/s" in shown and "perplexity 41.5" in shown
    with pytest.raises(BadInput, match="The layout is one of sharper, faster"):
        services.load(str(tiny_gguf), "sideways")
    with pytest.raises(BadInput, match="the owner's choice"):
        next(Services(Runtime(), read_only=True).measure_layouts("starter"))


@pytest.mark.long
@browser.needs_chromium
def test_figures_that_come_late_are_not_shown_as_those_of_another_model(served, tiny_gguf, tmp_path, monkeypatch):
    other = shutil.copy(tiny_gguf, tmp_path / "other.gguf")
    go, end = threading.Event(), threading.Event()

    def slow(spec, report):
        report(Progress("At first"))
        assert go.wait(60)
        report(Progress("Later"))
        assert end.wait(60)
        if spec.gguf_path == other:
            raise EngineError("It broke off.")
        layout_figures._keep(spec.gguf_path, ROWS)

    monkeypatch.setattr(layout_figures, "measured", slow)
    with browser.opened(served.url) as page:
        pick(page, "Model", str(tiny_gguf))
        page.click("#measure-layouts")
        page.wait_for_selector("#layout-figures >> text=At first")
        pick(page, "Model", str(other))
        page.wait_for_selector("#layout-figures >> text=not measured yet")
        assert page.is_disabled("#measure-layouts"), "it measures one at a time"
        go.set()
        page.wait_for_selector(f"#layout-figures >> text={tiny_gguf.name}: Later")
        end.set()
        page.wait_for_selector("#measure-layouts:not([disabled])")
        assert "not measured yet" in page.inner_text("#layout-figures")
        pick(page, "Model", str(tiny_gguf))
        page.wait_for_selector(f"#layout-figures >> text={tiny_gguf.name} on this host; lower")
        pick(page, "Model", str(other))
        page.wait_for_selector("#layout-figures >> text=not measured yet")
        page.click("#measure-layouts")
        page.wait_for_selector("text=It broke off.")
        page.wait_for_selector("#measure-layouts:not([disabled])")
        assert "not measured yet" in page.inner_text("#layout-figures") and not page.errors


@pytest.mark.long
def test_the_faster_layout_is_loaded_measured_and_left_again(home, tmp_path):
    file = builders.Llama("Q8_0", hidden=256).gguf(tmp_path / "model.gguf")
    runtime = Runtime()
    services = Services(runtime)
    services.load(str(file), "faster")
    until(lambda: runtime.state.phase in ("ready", "failed"), 60)
    assert runtime.state.loaded and "faster layout" in runtime.state.loaded.quantization, runtime.state
    said = list(services.measure_layouts(str(file)))
    assert any("speed" in text for text in said)
    assert [row["layout"] for row in services.layout_figures(str(file))] == ["sharper", "faster"]
    services.load(str(file), "sharper")
    until(lambda: runtime.state.phase == "ready" and "faster" not in runtime.state.loaded.quantization, 60)
    runtime.close()
