"""Libraries speak to programmers too: bars of their own, words about what a later version will drop. Nobody who uses this app can act on
them, so they are left out, unless the variables that ask for them are set. Nor do libraries fetch code that nobody asked for."""

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator


def kernels() -> None:
    """For before bitsandbytes is imported. Where the package `kernels` is installed, bitsandbytes fetches compiled code from the Hub for
    some processors and runs it, and transformers may; where it is not, bitsandbytes says so. Their own kernels do."""
    sys.modules.setdefault("kernels", None)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def libraries() -> None:
    """For before a model is loaded. Imports transformers."""
    kernels()
    from transformers.utils import logging

    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", "Paged optimizers are not supported on CPU")  # `optimizers.paging` says it
    logging.disable_progress_bar()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()


@contextlib.contextmanager
def bars() -> Iterator[None]:
    """For calls that draw a bar which no setting turns off: within the block nothing is written to stderr."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
