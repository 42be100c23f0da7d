"""The blind game in cells: two answers, one guess, and in the end what the score is worth."""

# %% [markdown]
# # Can you tell who wrote this?
#
# “Can you distinguish ChatGPT outputs from Guanaco-65B outputs? We authors had a hard time.” So asked the authors of QLoRA. Here two
# answers to one question stand side by side. You say whose is whose and how sure you are; then you see who they are and what gave it
# away. It needs no GPU.

# %% tags=["install"]
# The install cell of engine/cells/first.py.

# %% [markdown]
# ## Does this machine do?
#
# The self-test takes about a minute. The game itself needs none of what it tries but the disk, and is played whatever it says.

# %% tags=["machine"]
from engine.cells.commands import engine
from engine.errors import EngineError

try:
    engine("doctor")
except EngineError as error:
    print(f"{error} The game is played all the same.")

# %% [markdown]
# ## Play
#
# The starter pack has 45 questions of our own. One answer is that of the small starter model, the other that of Guanaco mini, which is
# the same model with the adapter that this project trained. No network is needed.
#
# Sides are drawn at random. Which is whose stays in a database of the host until you have guessed; no variable of this notebook holds it.
# Broken ends are trimmed and names masked, so that only the writing counts; afterwards you see what was changed. `q` leaves, and running
# the cell again goes on, also after a restart. Where nobody is there to be asked, a bot plays.

# %%
from engine.cells.playing import play

ROUNDS = 10  # @param [10, 20, 40] {"type":"raw"}

play(ROUNDS)

# %% [markdown]
# ## What a score is worth
#
# A coin gets half of the rounds right, and seven of ten in one game of six. The card therefore tells how often a coin does as well
# (exact, one-sided), and the interval (Wilson, 95%) says which shares of right guesses go with such a result. Ten rounds leave it wide:
# forty make it half as wide. The length is fixed before the first round, because whoever may stop when it looks good always wins.

# %% [markdown]
# ## The published answers
#
# The original game: 80 questions, ChatGPT and Guanaco 65B, with GPT-4's verdict in both orders. The answers (12.6 MB, MIT licence) are
# fetched from the authors' repository when you switch this on, checked against pinned hashes, and stay on this machine.

# %%
PUBLISHED = False  # @param {"type":"boolean"}

if PUBLISHED:
    play(ROUNDS, from_published=True)

# %% [markdown]
# ## The web page, if you like
#
# The same game with keyboard, calibration, habits and replays to send to a friend. It is off by default; switched off again, this cell ends
# it.

# %%
from engine.cells.commands import close_page, open_page

OPEN_PAGE = False  # @param {"type":"boolean"}

if OPEN_PAGE:
    open_page(tab="game")
else:
    close_page()
