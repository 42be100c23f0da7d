"""`python -m engine.llama_server`: llama.cpp's server in a process of its own, on a loopback port of its own, behind a key.

Reads one line of JSON (see `Settings`) from stdin and answers on stdout with one: the address, or why there is none. Ends
when its stdin closes, so it never outlives its parent.
"""

import json
import os
import sys
import threading
from dataclasses import dataclass

from engine import children


@dataclass(frozen=True)
class Settings:
    """What the server is started with. `context` is in tokens and for each of `slots` answers at a time; `batch` is how
    many prompt tokens are read in one step; `check` looks for numbers in the weights that are none."""

    model: str
    key: str
    adapters: list[str]
    context: int
    slots: int
    threads: int
    batch: int
    check: bool


def start(settings: Settings):
    """The running server object; it lives as long as the process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings.model
    params.n_ctx = settings.context * settings.slots
    params.n_parallel = settings.slots
    params.n_batch = params.n_ubatch = settings.batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    params.check_tensors = settings.check
    # Each slot keeps its own part of the cache: shared, eight long conversations take a quarter longer.
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    # Both cost a second at the start; what fits is decided before.
    params.warmup = params.fit_params = False
    # Only the parent speaks to it.
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings.key]
    params.cors_origins = ""
    params.endpoint_metrics = params.ui = False
    params.endpoint_slots = True
    params.verbosity = 1  # errors only
    adapters = []
    for path in settings.adapters:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 0.0
        adapters.append(adapter)
    params.lora_adapters = adapters
    return xllamacpp.Server(params)


def main() -> None:
    """Start, say where, and stay until stdin closes. Whatever the library prints goes to stderr."""
    children.ignore_interrupts()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    settings = Settings(**json.loads(sys.stdin.buffer.readline()))
    children.end_with_parent()
    try:
        server = start(settings)
        answer = {"address": server.listening_address}
    except ImportError as error:
        answer = {"missing": f"llama.cpp cannot be imported here ({type(error).__name__}: {error})."}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=out, flush=True)
    if "address" not in answer:
        os._exit(1)
    threading.Event().wait()


if __name__ == "__main__":
    main()
