"""What may go wrong in a way that a person can act on.

The text of every error here is written for that person: what happened, and what to do.
"""


class EngineError(Exception):
    """Something failed that is not the caller's fault (network, disk, memory). Exit code 1."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback; IPython asks for it by this name."""
        return [str(self)]


class BadInput(EngineError):
    """What was asked for cannot be right. Exit code 2."""

    exit_code = 2
