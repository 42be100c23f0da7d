"""A stand-in for what lends GPUs on ZeroGPU Spaces, after the behaviour of Hugging Face's package `spaces`: a generator function runs in a
forked process, arguments and values are pickled, closing ends it, and of an exception only the name of its class comes back."""

import multiprocessing
import pickle

_FORK = multiprocessing.get_context("fork")
# Of all processes that were forked.
processes = []


def lend(task):
    """The decorator."""

    def answer(*asked):
        ours, theirs = _FORK.Pipe()
        stop = _FORK.Event()
        process = _FORK.Process(target=_work, args=(task, pickle.dumps(asked), theirs, stop), daemon=True)
        process.start()
        processes.append(process)
        try:
            while True:
                kind, value = pickle.loads(ours.recv_bytes())
                if kind == "end":
                    return
                if kind == "error":
                    raise RuntimeError(value)
                yield value
        finally:
            stop.set()
            process.join(30)

    return answer


def _work(task, asked: bytes, pipe, stop) -> None:
    values = task(*pickle.loads(asked))
    try:
        for value in values:
            if stop.is_set():
                values.close()
                break
            pipe.send_bytes(pickle.dumps(("value", value)))
    except Exception as error:
        pipe.send_bytes(pickle.dumps(("error", type(error).__name__)))
    pipe.send_bytes(pickle.dumps(("end", None)))
