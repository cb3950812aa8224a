"""Functions run as the ranks of a run, each in a process of its own."""

import io
import multiprocessing
import os
import socket
import traceback

import torch

_PRELOADED = [
    "torch",
    "torch.distributed",
    "torch.utils._pytree",
    "dni_fx",
    "dni_fx.runtimes.distributed",
    "tests.zoo",
]
_SECONDS = 120
"""A run of a test that takes longer hangs."""


def run_ranks(function, ranks, *args, seconds=_SECONDS, silent=None):
    """What a function of a module returns on each rank; an error is returned as its text.

    The rank that falls `silent` is not waited for.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    pipes, processes, port = [], [], free_port()
    for rank in range(ranks):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_run, args=(theirs, dict(os.environ), rank, ranks, port, function, args)
        )
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        both = list(zip(pipes, processes, strict=True))
        return [_result(*both[at], seconds) if at != silent else "silent" for at in range(ranks)]
    finally:
        for at, process in enumerate(processes):
            if at == silent:
                process.kill()
            process.join(seconds)
            if process.is_alive():
                process.kill()
                raise AssertionError("a process has not ended")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _result(pipe, process, seconds):
    if not pipe.poll(seconds):
        process.kill()
        return "hangs"
    try:
        return torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=True)
    except EOFError:
        process.join()
        return f"ended with {process.exitcode}"


def _run(pipe, environment, rank, ranks, port, function, args):
    os.environ |= environment | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        result = function(rank, *args)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    whole = io.BytesIO()
    torch.save(result, whole)
    pipe.send_bytes(whole.getvalue())
