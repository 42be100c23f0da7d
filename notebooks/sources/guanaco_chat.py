"""Guanaco in 4 bits, chatting in cells: on a free T4, or the starter on a CPU. What NF4 and the adapter do, shown on real weights."""

# %% [markdown]
# # Chat with Guanaco in 4 bits
#
# Guanaco is LLaMA, finetuned by QLoRA: the base in 4 bits, a small adapter on top. This notebook chats with Guanaco 7B or 13B on a GPU
# of 15 GB such as Colab's free T4 (*Runtime > Change runtime type*), and with the small starter model on any processor. It shows what
# the adapter adds, what 4 bits do to the weights, and where the memory goes.
#
# Run the cells from top to bottom. Values with a form can be changed; then run that cell again.

# %% tags=["install"]
# The install cell of engine/cells/first.py.

# %% [markdown]
# ## Does this machine do?
#
# The self-test takes about a minute. It tries 16-bit and 4-bit arithmetic, a tiny training and llama.cpp, and says what to do where
# something fails. Without a GPU it says so, and the starter runs all the same.

# %% tags=["machine"]
from engine.cells.commands import engine

engine("doctor")

# %% [markdown]
# ## A model
#
# `starter` runs anywhere. `guanaco-7b` and `guanaco-13b` want a GPU: 13 and 26 GB are fetched and held in 4 bits, which takes some
# minutes the first time. They are for research only, as LLaMA's licence says. A GPU without bfloat16, as a T4, computes in float16, and
# the line below the cell says so. Models that ask for a licence (`llama-3.1-8b`, `openorca-7b`) need a token of your account on the Hub;
# on Colab put it among the secrets (the key symbol on the left) as `HF_TOKEN`. It is never printed or kept.

# %% tags=["machine"]
from engine.cells import colab
from engine.cells.talking import Talk

MODEL = "starter"  # @param ["starter", "guanaco-7b", "guanaco-13b", "qwen2.5-1.5b", "qwen2.5-7b", "llama-3.1-8b", "openorca-7b"] {"allow-input":true}

colab.token()
talk = Talk(MODEL)

# %% [markdown]
# ## Chat
#
# The conversation goes on with every run of this cell. The stop button ends an answer; `talk.forget()` begins anew. At temperature 0 the
# likeliest token is taken each time; leave it out, and answers differ.

# %%
MESSAGE = "Who are you, and where do you run?"  # @param {"type":"string"}

talk.say(MESSAGE, temperature=0, max_new_tokens=200)

# %%
talk.say("Say that again as one short sentence.", temperature=0, max_new_tokens=60)

# %% [markdown]
# ## What the adapter adds
#
# An adapter changes every linear layer by two thin matrices. Its strength is a factor on that change: 0 is the bare base, 1 what was
# trained, more overdoes it. Nothing is loaded again. These are the likeliest answers, so only the strength differs.

# %%
QUESTION = "Why does bread rise?"  # @param {"type":"string"}

talk.compare(QUESTION, strengths=(0, 0.5, 1, 1.5))

# %% [markdown]
# ## What NF4 does to a weight matrix
#
# NF4 cuts a matrix into blocks of 64 weights, divides each block by its largest weight, and rounds what is left to one of 16 values. They
# are closer together near zero, where a normal distribution has most of its weights: evenly spaced ones would be coarse there, and the
# outer ones hardly used. The largest of each block is kept as a constant; double quantization rounds those constants too, to 0.127 bits a
# weight. While the model computes, a matrix is unpacked to 16 or 32 bits and thrown away again.
#
# The picture takes a matrix of the starter. Its weights come in 4 bits of another kind (llama.cpp's Q4_1), so they are real ones that
# were rounded once before; the error shown is what NF4 adds to that.

# %%
from engine.cells.explaining import show_memory, show_nf4

show_nf4()

# %% [markdown]
# ## Where memory goes
#
# This is what finetuning takes by the recipes of the paper, part by part, from the models' shapes alone. The base in 4 bits is the
# largest part, but not all: the adapter has 32-bit weights, gradients and optimizer state. The optimizer's state can be paged out to main
# memory, so what has to be there at once is less. For a T4 there are recipes (`guanaco-7b-t4`, `guanaco-13b-t4`) with an 8-bit optimizer.

# %%
show_memory("T4")

# %% [markdown]
# ## The web page, if you like
#
# Everything above works in cells. The page of Guanaco Playground has more (branches, comparing two models, the leaderboard). It is off by
# default; switched off again, this cell ends it. It loads the model anew, so the one above is given back first.

# %%
from engine.cells import talking
from engine.cells.commands import close_page, open_page

OPEN_PAGE = False  # @param {"type":"boolean"}

if OPEN_PAGE:
    talking.close()
    open_page("--model", MODEL)
else:
    close_page()
