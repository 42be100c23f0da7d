"""The command line and the web page, from a cell."""

import atexit
import subprocess
import sys
import tempfile
import time
import urllib.request

from engine import children, hardware, ports
from engine.cells.showing import stopped_says
from engine.errors import EngineError

PORT = 7860
HEIGHT = 900
_pages: list[subprocess.Popen] = []


def engine(*arguments: str) -> None:
    """`python -m engine ARGUMENTS`, its lines shown as they come. Raises EngineError where it fails, which it has explained then."""
    command = [sys.executable, "-u", "-m", "engine", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(command, env=children.environment(), **options) as process:
        with stopped_says(f"{' '.join(command[2:5])} was stopped."):
            for line in process.stdout:
                print(line, end="")
    if process.returncode:
        raise EngineError(f"{' '.join(command[2:5])} ended with {process.returncode}; the lines above say why.")


def open_page(*arguments: str, port: int = PORT, tab: str = "") -> None:
    """The web page below the cell, served in the background until the notebook ends or this is called again, at another port where
    something has that one, opened at a `tab`; `arguments` are those of app.py. Raises EngineError where it does not start."""
    close_page()
    port = ports.free(port)
    command = [sys.executable, "-m", "engine.cells.page", "--port", str(port), *arguments]
    with tempfile.TemporaryFile() as log:
        # In a session of its own no stop button reaches it; it ends when its stdin closes.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": log}
        process = subprocess.Popen(command, env=children.environment(), start_new_session=True, **pipes)
        _pages.append(process)
        answers = False
        while not answers:
            time.sleep(0.2)
            answers = _answers(port)
            if process.poll() is not None:
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                raise EngineError(f"The page did not start: {lines[-1] if lines else f'code {process.returncode}'}")
    path = f"/?tab={tab}" if tab else "/"
    if hardware.machine().host == "colab":
        from google.colab import output

        output.serve_kernel_port_as_iframe(port, path=path, height=str(HEIGHT))
        return
    from IPython.display import IFrame, display

    print(f"Also at http://127.0.0.1:{port} on the machine that runs this notebook.")
    display(IFrame(f"http://127.0.0.1:{port}{path}", width="100%", height=HEIGHT))


@atexit.register
def close_page() -> None:
    """End the page that was opened, if any."""
    while _pages:
        process = _pages.pop()
        process.terminate()
        process.wait()
        process.stdin.close()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False
