"""What the cells of notebooks call: installing, commands, chatting, training and playing in a cell, with output in place.

IPython is imported inside functions: only a notebook has to have it.
"""
