"""Connections between processes of one machine as if there were a wide area between them."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch.distributed as dist

_LOOPBACK = b"\x7f\x00\x00\x01"
_INET = b"\x02\x00"
_CHUNK = 2**15
_SLACK = 0.02
"""Seconds by which the relay may be late without the line standing still: it has no core of its own."""
_CONTROL = "DNI_FX_RELAY"
"""Where the environment says the port is at which the relay opens a way to another port."""

_stores: list[dist.Store] = []
"""What torch refers to from C++ alone, and Python would forget."""


@dataclass(frozen=True)
class Link:
    """How many seconds a message takes to the other end and back, and how many bytes a second get through."""

    rtt: float
    bandwidth: float


@contextmanager
def relayed(link: Link | None) -> Generator[None]:
    """Inside, processes that join through `RelayedStore` are as far apart as the link says."""
    if link is None:
        yield
        return
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, link), daemon=True)
    process.start()
    os.environ[_CONTROL] = str(ours.recv())
    try:
        yield
    finally:
        del os.environ[_CONTROL]
        process.kill()


class RelayedStore(dist.Store):
    """A store in which the addresses of other ranks are those of a relay.

    gloo publishes the address at which each rank listens, and connects to what it finds in the store. Of two
    ranks the one with the higher address does, so the relay's port is on the same side of a rank's own.
    """

    def __init__(self, inner: dist.Store, rank: int) -> None:
        super().__init__()
        self.inner = inner
        self.rank = rank
        self.ways: dict[tuple[int, int], int] = {}
        self.own: dict[str, int] = {}

    def get(self, key: str) -> bytes:
        """What is stored; an address of another rank leads through the relay."""
        value = self.inner.get(key)
        group, _, rank = key.rpartition("/")
        at = _place_of_port(value)
        if rank == str(self.rank) or at is None or _CONTROL not in os.environ:
            return value
        port = self._way_to(int.from_bytes(value[at : at + 2], "big"), self.own[group])
        return value[:at] + port.to_bytes(2, "big") + value[at + 2 :]

    def _way_to(self, port: int, own: int) -> int:
        if (port, own) not in self.ways:
            with socket.create_connection(("127.0.0.1", int(os.environ[_CONTROL]))) as control:
                control.sendall(port.to_bytes(2, "big") + own.to_bytes(2, "big"))
                self.ways[port, own] = int.from_bytes(control.recv(2), "big")
        return self.ways[port, own]

    def set(self, key: str, value: bytes) -> None:
        """Store something, and remember at which port this rank listens in a group."""
        group, _, rank = key.rpartition("/")
        if rank == str(self.rank) and (at := _place_of_port(value)) is not None:
            self.own[group] = int.from_bytes(value[at : at + 2], "big")
        self.inner.set(key, value)

    def add(self, key: str, amount: int) -> int:
        """Count something."""
        return self.inner.add(key, amount)

    def wait(self, keys: list[str], timeout: object = None) -> None:
        """Wait until these are there."""
        self.inner.wait(keys)

    def check(self, keys: list[str]) -> bool:
        """Whether these are there."""
        return self.inner.check(keys)

    def compare_set(self, key: str, expected: bytes, desired: bytes) -> bytes:
        """Store something in the place of something else."""
        return self.inner.compare_set(key, expected, desired)

    def delete_key(self, key: str) -> bool:
        """Forget something."""
        return self.inner.delete_key(key)

    def num_keys(self) -> int:
        """How many there are."""
        return self.inner.num_keys()

    def set_timeout(self, timeout: object) -> None:
        """The inner store keeps its own."""


def _place_of_port(value: bytes) -> int | None:
    """Where the port is in an address on this machine, if it is one."""
    at = value.find(_LOOPBACK)
    return at - 2 if at >= 4 and value[at - 4 : at - 2] == _INET else None


def join_by_relay(rank: int) -> None:
    """Join the process group of the environment, through the relay if there is one."""
    port, size = int(os.environ["MASTER_PORT"]), int(os.environ["WORLD_SIZE"])
    store = RelayedStore(dist.TCPStore("127.0.0.1", port, size, rank == 0), rank)
    _stores.append(store)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _serve(pipe: object, link: Link) -> None:
    asyncio.run(_Relay(link).run(pipe))


class _Relay:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.tasks: set[asyncio.Task[None]] = set()
        self.ways: list[asyncio.Server] = []

    async def run(self, pipe: object) -> None:
        """Tell where new ways are opened, and open them for ever."""
        control = await asyncio.start_server(self._open, "127.0.0.1", 0)
        pipe.send(control.sockets[0].getsockname()[1])  # pyright: ignore[reportAttributeAccessIssue]
        await control.serve_forever()

    async def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port, viewer = [int.from_bytes(await reader.readexactly(2), "big") for _ in range(2)]

        async def connect(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
            far, forth = await asyncio.open_connection("127.0.0.1", port)
            for source, sink in ((near, forth), (far, back)):
                sink.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
                for each in (self._take(source, waiting), self._give(waiting, sink)):
                    self.tasks.add(asyncio.create_task(each))

        side = range(viewer + 1, 2**16) if port > viewer else range(1024, viewer)
        found = next(each for each in side if _is_free(each))
        self.ways.append(await asyncio.start_server(connect, "127.0.0.1", found))
        writer.write(found.to_bytes(2, "big"))
        await writer.drain()
        writer.close()

    async def _take(self, source: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Take what is sent, no faster than the link; note when it arrives."""
        loop, free = asyncio.get_running_loop(), 0.0
        while True:
            part = await source.read(_CHUNK)
            free = max(free, loop.time() - _SLACK) + len(part) / self.link.bandwidth
            waiting.put_nowait((free + self.link.rtt / 2, part))
            if not part:
                return
            await asyncio.sleep(max(free - loop.time(), 0))

    async def _give(self, waiting: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        """Hand over what has arrived; nothing is the end."""
        loop = asyncio.get_running_loop()
        while True:
            at, part = await waiting.get()
            await asyncio.sleep(max(at - loop.time(), 0))
            if not part:
                sink.close()
                return
            sink.write(part)
            await sink.drain()
