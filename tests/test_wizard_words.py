"""What the wizard says of its graphics, for those who hear them, and where there is nothing to show."""

import builders
import test_preview

from engine import drafts, fitting, hardware, memory, models, presets, preview, runs, telling
from engine.destinations import Exported
from engine.drafts import Draft
from engine.events import Started
from engine.probing import Probe
from engine.runtime import Runtime
from engine.services import Services
from ui.finetune import taking, training, tryout, views
from ui.finetune.lens import LensStep
from ui.finetune.workshop import Workshop


def test_a_memory_bar_says_its_parts_and_what_was_measured():
    plan = memory.training_plan(models.MODELS["starter"].shape, presets.preset("starter"), hardware.machine())
    probe = Probe("done", 10, 3 * 2**30, 1.0, 100.0, 2**30, {}, "Ten steps.")
    label = views.memory_bars({fitting.THIS_MACHINE: plan}, probe).partition('aria-label="')[2].partition('"')[0]
    assert label.startswith("This machine: ") and label.endswith("Measured at the peak: 3.0 GB.")
    assert all(views.gigabytes(part.bytes) in label for part in plan.parts if part.bytes)
    assert "Measured at the peak" not in views.memory_bars({fitting.THIS_MACHINE: plan}, None)


def test_the_lens_says_why_it_is_blank(tmp_path):
    (tmp_path / "rows.csv").write_text("frage,antwort\nWas?,Das.\n")
    step = LensStep(Workshop(Services(Runtime(isolated=False))))
    said = step.shown(drafts.with_data(Draft(), str(tmp_path / "rows.csv"), "rows"))[1]
    assert "No known format" in said and "Say in step 2 which column holds what" in said


def test_the_command_of_an_export_names_a_folder_that_is_free_and_none_for_the_hub(home):
    step = taking.Taking(Workshop(Services(Runtime(isolated=False))), runs.known_as)
    place = home / "exports" / "mine-adapter"
    assert step._command("mine", "adapter", "") == f"python -m engine export mine --to adapter {place}"
    place.mkdir(parents=True)
    (place / "README.md").touch()
    assert step._command("mine", "adapter", " ") == f"python -m engine export mine --to adapter {place}-2"
    assert step._command("mine", "adapter", str(place)) == f"python -m engine export mine --to adapter {place}", "what is typed is taken"
    assert step._command("mine", "hub", "") == "" and step._command("mine", "hub", "me/mine").endswith(" --to hub me/mine")


def test_an_export_says_how_it_is_used_and_shows_its_figures():
    files = {"my run-F16.gguf": 14_000_000_000, "adapter.gguf": 40_000_000, "README.md": 900}
    found = Exported(
        "my run", "gguf", "/out/my run-gguf", files, {"gguf": {"prompts": 3, "mean_logit_difference": 0.002}}, ("Checked <well>.",)
    )
    assert taking.use(found, "starter")[1] == "llama-cli -m '/out/my run-gguf/my run-F16.gguf'"
    said = views.exported(found, [("download/key/a.gguf", "a.gguf")])
    for words in ("14.0 GB", "gguf: mean logit difference", "0.002", "Checked &lt;well&gt;.", 'href="download/key/a.gguf"'):
        assert words in said
    hub = Exported("mine", "hub", "https://huggingface.co/owner/mine", {"README.md": 900})
    assert "--adapter owner/mine" in taking.use(hub, "starter")[1] and 'href="https://huggingface.co/owner/mine"' in views.exported(hub, [])
    book = Exported("mine", "notebook", "/out/mine-notebook", {"finetune.ipynb": 900})
    assert taking.use(book, "starter")[1] == "jupyter lab /out/mine-notebook/finetune.ipynb"


def test_one_of_a_kind_is_said_as_one(monkeypatch):
    found = test_preview.counted(builders.conversation([("Hi", "Yes")]))
    said = views.lengths(found, preview.Cutoff(rows=1, cut=1, unlearnable=1, total=9, kept=8, lost=1, longest=9), 9, "")
    cut = "1 of 2 rows is cut, 1 of 9 tokens to learn is lost (11.1%). 1 row has no answer within the limit and is left out; a higher limit keeps it."
    assert cut in said and "tokens: 1 row</title>" in said
    many = preview.Cutoff(rows=2, cut=2, unlearnable=2, total=9, kept=8, lost=2, longest=9)
    cut = "2 of 4 rows are cut, 2 of 10 tokens to learn are lost (20.0%). 2 rows have no answer within the limit and are left out; a higher limit keeps them."
    assert cut in views.lengths(found, many, 9, "")
    assert "Exported as notebook: 1 file, " in views.exported(Exported("mine", "notebook", "/out", {"finetune.ipynb": 900}), [])
    began = Started("mine", 1, 0, 1, 0, 1000, "CPU", "float32", "NF4", 1)
    assert telling.told(began).startswith("Beginning: 1 step on 1 row, 0 held out; ")
    line = training._line(began)["text"]
    assert line.startswith("Beginning: 1 step on 1 row, 0 held out; ") and line.endswith(", 1 row a pass.")
    assert tryout.answered(1).startswith("1 question is answered by both. ")
    shop = Workshop(Services(Runtime(isolated=False)))
    monkeypatch.setattr(Workshop, "cutoff", lambda shop, draft: many)
    draft = drafts.changed(Draft(), {"optimization.steps": 1})
    assert shop.duration(draft, 60) == "1 update at this pace takes about 1 minute at most: most rows are shorter."
