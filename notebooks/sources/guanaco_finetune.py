"""QLoRA from a recipe to an exported adapter, in cells: train with progress, resume after a lost runtime, chat, export."""

# %% [markdown]
# # Finetune your own Guanaco
#
# QLoRA holds a base model in 4 bits and learns a small adapter on top. This notebook goes from data to an adapter that you can chat
# with and take along: recipe, training, answers before and after, chat, export. On a free T4 it finetunes models of up to 7 or 13 billion
# parameters; without a GPU the starter learns in some minutes.
#
# Run the cells from top to bottom. Values with a form can be changed; then run that cell and those below again.

# %% tags=["install"]
# The install cell of engine/cells/first.py.

# %% [markdown]
# ## Does this machine do?
#
# The self-test takes about a minute, and says what to do where something fails. Without a GPU it says so.

# %% tags=["machine"]
from engine.cells.commands import engine

engine("doctor")

# %% [markdown]
# ## Where runs are kept
#
# A run saves checkpoints as it goes. On Colab the disk is gone with the runtime: with `DRIVE` on, Colab asks for access to your Google
# Drive, and runs with their checkpoints lie there. Models stay on the runtime's disk; they are fetched again.

# %% tags=["machine"]
from engine.cells import colab

DRIVE = False  # @param {"type":"boolean"}

colab.keep_runs(DRIVE)
colab.token()

# %% [markdown]
# ## The recipe
#
# `DATA` is `bundled` (256 conversations written for this project, the rows of Guanaco mini), a file of yours (JSON, JSON Lines, CSV, TSV,
# Parquet, text, up to 20 MB; upload it with the folder symbol on the left), or a data set of the Hub such as
# `timdettmers/openassistant-guanaco`. Where its format is not found out, `COLUMNS` says which of its columns is which, as in
# `{"instruction": "question", "output": "answer"}`. The model's own recipe is taken and, where memory is short, changed until it fits;
# every change is told. A GPU without bfloat16, as a T4, computes in float16.

# %% tags=["machine"]
from engine.cells import training

MODEL = "starter"  # @param ["starter", "qwen2.5-0.5b", "qwen2.5-1.5b", "smollm2-1.7b", "qwen2.5-7b", "guanaco-7b", "guanaco-13b"] {"allow-input":true}
DATA = "bundled"  # @param {"type":"string"}
STEPS = 40  # @param {"type":"integer"}
COLUMNS = {}  # @param {"type":"raw"}

plan = training.recipe(MODEL, DATA, STEPS, COLUMNS)

# %%
print(plan.to_yaml())

# %% [markdown]
# The data as the model will see it: its format and why, how long rows are, and one row as it trains.

# %%
training.show_data(plan)

# %% [markdown]
# ## Train
#
# Training runs in a process of its own. The line below changes with every step; the losses are drawn at the end, with what they say. The
# stop button saves and ends; run the cell again and it goes on. After a lost runtime too: with `DRIVE` and the recipe's forms as they
# were, *Run all* finds the run and goes on from its last checkpoint. Other runs that are not done are named.
#
# Falling training loss means that the rows are learnt. The held-out loss is measured on rows that are never trained on: while it falls too,
# what is learnt holds elsewhere; where it rises again, rows are learnt by heart.

# %%
run = training.start(plan)
training.follow(run)

# %% [markdown]
# ## Resume
#
# For a run of another recipe, or one whose data you have not at hand: run the cells down to *Where runs are kept*, with `DRIVE` as it was,
# then this one with `RESUME` on. It goes on from the last checkpoint with the run that `RUN` names, without a name with the latest that
# is not done. Where all are done it says so and takes the latest. The cells below then are about that run.

# %%
from engine.cells import training

RESUME = False  # @param {"type":"boolean"}
RUN = ""  # @param {"type":"string"}

if RESUME:
    run = training.resume(RUN)
    training.follow(run)

# %% [markdown]
# ## Before and after
#
# The recipe's sample prompts, answered by the base and after the last step.

# %%
training.before_and_after(run)

# %% [markdown]
# ## Chat with it
#
# With your adapter, and the bare base beside it.

# %% tags=["machine"]
from engine.cells.talking import Talk

talk = Talk(run.recipe.model, run.id)

# %%
MESSAGE = "Give me one tip for learning a language."  # @param {"type":"string"}

talk.say(MESSAGE, max_new_tokens=120)

# %%
talk.compare(MESSAGE, strengths=(0, 1))

# %% [markdown]
# ## Take it along
#
# The adapter in PEFT's form with its card and recipe, and GGUF files for llama.cpp (merged weights, and the adapter alone). What is
# written is checked before it counts. On Colab they are in the folder symbol on the left.
#
# For GGUF the adapter is merged into the base in 16 bits, which must fit the GPU once, and main memory once as llama.cpp reads it. On a T4
# bases of up to 4 billion parameters do; 7B wants a GPU of 24 GB, 13B one of 40 GB. Where it does not fit the cell says so and writes
# none. A larger machine with the run's folder (with `DRIVE` on it is on your Drive, in `guanaco-playground/runs`) writes them later by
# `python -m engine export FOLDER my-gguf --to gguf`.

# %%
from engine.cells import talking

talking.close()
training.to_adapter(run)

# %%
training.to_gguf(run)

# %% [markdown]
# ## The web page, if you like
#
# The wizard shows rows token by token, compares runs, and plays a blind duel of base and adapter. It is off by default; switched off again,
# this cell ends it.

# %%
from engine.cells.commands import close_page, open_page

OPEN_PAGE = False  # @param {"type":"boolean"}

if OPEN_PAGE:
    open_page("--model", run.recipe.model, "--adapter", run.id, tab="finetune")
else:
    close_page()
