"""What the cells of notebooks call: installing, commands, chatting, training and playing in a cell, with output in place.

IPython is imported inside functions: only a notebook has to have it.
"""

import warnings

# tqdm says that it would draw its bars as widgets, were they there; what is under way is shown by our own lines.
warnings.filterwarnings("ignore", "IProgress not found")
