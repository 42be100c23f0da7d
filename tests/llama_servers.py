"""llama.cpp's server with any GGUF file, in a process of its own, asked over plain HTTP."""

import http.client
import json
import subprocess
import sys
from pathlib import Path

_CODE = """
import os, sys, xllamacpp
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
path, slots = sys.argv[1], int(sys.argv[2])
params = xllamacpp.CommonParams()
params.model.path = path
params.n_ctx, params.n_parallel, params.port, params.verbosity = 1024 * slots, slots, 0, 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
params.hostnames, params.kv_unified = ["127.0.0.1"], False
params.warmup = params.fit_params = params.ui = params.endpoint_slots = False
server = xllamacpp.Server(params)
print(server.listening_address, file=out, flush=True)
sys.stdin.read()
os._exit(0)
"""


class LlamaServer:
    """A model being served while the `with` block runs, to `slots` askers at a time; it is a `measuring.Client`."""

    def __init__(self, model: Path, slots: int = 1):
        command = [sys.executable, "-c", _CODE, str(model), str(slots)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._address = self._process.stdout.readline().strip().removeprefix("http://")
        if not self._address:
            self.__exit__()
            raise ValueError(f"llama.cpp refuses {model}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def post(self, path: str, body: dict) -> dict:
        """The JSON object that the server answers, an error too."""
        connection = http.client.HTTPConnection(self._address, timeout=300)
        try:
            connection.request("POST", f"/{path}", json.dumps(body), {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()
