"""The orders of a step: in which order a device runs the graphs of a folder, and what it keeps meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from dni_fx.device.manifest import Graph, Manifest, Order, Stage

_MADE = ("v:", "g:", "gp:", "u:")
"""What the names of tensors begin with that graphs write for one another."""
_BUFFER = "b:"
_RENEWED = f"new:{_BUFFER}"


def orders(manifest: Manifest) -> dict[str, tuple[Order, ...]]:
    """The orders of a decoupled and of an exact step, and of a prediction, of a manifest without any."""
    return {
        "decoupled": _Listing(manifest).decoupled(),
        "exact": _Listing(manifest).exact(),
        "evaluate": _Listing(manifest).evaluate(),
    }


class _Listing:
    """Lists one order after another; `made` are the names of what is there by then."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.made = {each.value for each in manifest.inputs}
        self.crossing = {name for boundary in manifest.boundaries for name in boundary.values}
        self.unread = {boundary.name: set(boundary.consumers) for boundary in manifest.boundaries}
        self.changing = _of_several(manifest)
        self.now: dict[str, str] = {}
        """What each of these buffers is called by now, if a stage has changed it."""
        self.then: dict[int, Mapping[str, str]] = {}
        self.listed: list[Order] = []

    def decoupled(self) -> tuple[Order, ...]:
        """Every stage that can takes its step at once; the others when the loss is there.

        Guesses are made as soon as there is something to guess from: a synthesizer that has learned
        from the truth of this step would know too much.
        """
        waiting: list[Stage] = []
        for stage in self.manifest.stages:
            if stage.step is not None:
                self._run(stage.step)
                self._teach(stage)
                continue
            self._forward(stage)
            waiting.append(stage)
            for boundary in self.manifest.boundaries:
                if boundary.producer == stage.stage and boundary.guess is not None:
                    self._run(boundary.guess)
        self._run(self.manifest.loss)
        for stage in reversed(waiting):
            self._run(stage.backward, self.crossing, self.then[stage.stage])
            self._teach(stage)
        return self._end()

    def exact(self) -> tuple[Order, ...]:
        """All stages forward, and then backward with true gradients; synthesizers learn from these."""
        for stage in self.manifest.stages:
            self._forward(stage)
        self._run(self.manifest.loss)
        for stage in reversed(self.manifest.stages):
            self._run(stage.backward, (), self.then[stage.stage])
            self._teach(stage)
        return self._end()

    def evaluate(self) -> tuple[Order, ...]:
        """All stages in eval mode; predictions are left."""
        for stage in self.manifest.stages:
            self._run(stage.evaluate)
        return _dropping(self.listed, self.manifest, self.manifest.predictions)

    def _end(self) -> tuple[Order, ...]:
        if self.manifest.shared is not None:
            self._run(self.manifest.shared.graph)
        return _dropping(self.listed, self.manifest, ())

    def _forward(self, stage: Stage) -> None:
        """Run a stage forward; backward, it will see buffers as they are now."""
        self.then[stage.stage] = dict(self.now)
        self._run(stage.forward)

    def _run(
        self, graph: Graph, guessed: Iterable[str] = (), buffers: Mapping[str, str] | None = None
    ) -> None:
        """Run a graph; for gradients of `guessed` values it takes guesses, and zeros if there are none.

        Of buffers that several stages read it sees those of these names, if not the present ones.
        """
        seen = self.now if buffers is None else buffers
        reads = {name: seen[name] for name in graph.inputs if name in seen}
        zeros = dict[str, str]()
        for name in graph.inputs:
            kind, _, value = name.partition(":")
            if kind != "g":
                continue
            if f"v:{value}" in guessed:
                if f"u:{value}" in self.made:
                    reads[name] = f"u:{value}"
                else:
                    zeros[name] = f"v:{value}"
            elif name not in self.made:
                zeros[name] = f"v:{value}"
        self.made.update(graph.outputs)
        renewed = [name for name in graph.outputs if name.removeprefix("new:") in self.changing]
        keeps = {name: f"{name.removeprefix('new:')}@{len(self.listed)}" for name in renewed}
        self.now |= {name.removeprefix("new:"): kept for name, kept in keeps.items()}
        self.listed.append(Order(graph, reads, zeros, keeps, ()))

    def _teach(self, stage: Stage) -> None:
        """Teach the synthesizers whose readers have all run backward; this stage was one of them."""
        for boundary in self.manifest.boundaries:
            unread = self.unread[boundary.name]
            if stage.stage in unread:
                unread.discard(stage.stage)
                if not unread and boundary.learn is not None:
                    self._run(boundary.learn)


def _of_several(manifest: Manifest) -> set[str]:
    """The buffers that a stage changes and several read."""
    read, changed = Counter[str](), set[str]()
    for stage in manifest.stages:
        graphs = [each for each in (stage.forward, stage.step) if each is not None]
        read.update({name for each in graphs for name in each.inputs if name.startswith(_BUFFER)})
        names = {name for each in graphs for name in each.outputs if name.startswith(_RENEWED)}
        changed |= {name.removeprefix("new:") for name in names}
    return {name for name in changed if read[name] > 1}


def _dropping(listed: list[Order], manifest: Manifest, kept: Iterable[str]) -> tuple[Order, ...]:
    """These orders, each with the names of what it is the last to read or write."""
    known, made = set(kept), {each.value for each in manifest.inputs}
    for order in listed:
        made.update(name for name in order.graph.outputs if name.startswith(_MADE))
        made.update(order.keeps.values())
    found: list[Order] = []
    for order in reversed(listed):
        drops = sorted(({*_read(order), *order.graph.outputs, *order.keeps.values()} & made) - known)
        known.update(drops)
        found.append(replace(order, drops=tuple(drops)))
    return tuple(reversed(found))


def _read(order: Order) -> set[str]:
    """The names of what an order reads."""
    renamed: Mapping[str, str] = {**order.reads, **order.zeros}
    return {renamed.get(name, name) for name in order.graph.inputs}
