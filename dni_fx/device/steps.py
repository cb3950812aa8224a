"""One step of training, stage after stage."""

from __future__ import annotations

from collections.abc import Mapping

from dni_fx.device.graphs import NEW, Graphs
from dni_fx.device.manifest import Boundary, Graph, Manifest, Stage
from dni_fx.device.store import Array


class Step:
    """A step on one batch: `given` are its targets and numbers, `values` what stages have written so far."""

    def __init__(
        self, manifest: Manifest, graphs: Graphs, given: Mapping[str, Array], inputs: Mapping[str, Array]
    ) -> None:
        self.manifest = manifest
        self.graphs = graphs
        self.given = given
        self.values = dict(inputs)
        self.arrived: dict[str, Array] = {}
        self.lent: dict[str, Array] = {}
        self.buffers: dict[str, Array] = {}
        self.unread = {boundary.name: set(boundary.consumers) for boundary in manifest.boundaries}

    def decoupled(self) -> float:
        """Every stage that can takes its step at once; the others when the loss is there."""
        waiting: list[Stage] = []
        for stage in self.manifest.stages:
            if stage.step is None:
                self._take(self._run(stage.forward))
                waiting.append(stage)
            else:
                self._take(self._run(stage.step))
                self._answer(stage)
        loss = self._judge()
        for stage in reversed(waiting):
            self._take(self._run(stage.backward, self._sent(stage)))
            self._answer(stage)
        self._end()
        return loss

    def exact(self) -> float:
        """All stages forward, and then backward with true gradients; synthesizers learn from these."""
        for stage in self.manifest.stages:
            self._take(self._run(stage.forward))
        loss = self._judge()
        for stage in reversed(self.manifest.stages):
            self._take(self._run(stage.backward, self._filled(stage, self.arrived)))
            self._answer(stage)
        self._end()
        return loss

    def _sent(self, stage: Stage) -> dict[str, Array]:
        """What goes up to a stage that has waited for the loss: that of its outputs, and else guesses."""
        crossing = {f"g:{name[2:]}" for each in self.manifest.boundaries for name in each.values}
        found = {name: each for name, each in self.arrived.items() if name not in crossing}
        for boundary in self.manifest.boundaries:
            if boundary.producer == stage.stage and boundary.guess is not None:
                found |= self._run(boundary.guess)
        return self._filled(stage, found)

    def _filled(self, stage: Stage, found: Mapping[str, Array]) -> dict[str, Array]:
        """These gradients, and zeros for what nobody has told one of."""
        wanted = [name for name in stage.backward.inputs if name.startswith("g:") and name not in found]
        return {**found, **{name: self.values[f"v:{name[2:]}"] * 0 for name in wanted}}

    def _judge(self) -> float:
        """The loss of the model's outputs, whose gradients have arrived with it."""
        found = self._run(self.manifest.loss)
        self._take({name: each for name, each in found.items() if name != "loss"})
        return float(found["loss"])

    def _run(self, graph: Graph, more: Mapping[str, Array] | None = None) -> dict[str, Array]:
        return self.graphs.run(graph, {**self.given, **self.values, **(more or {})})

    def _take(self, found: Mapping[str, Array]) -> None:
        """Take in what a graph has returned: values, gradients of values and parameters, and buffers."""
        for name, each in found.items():
            kind = name.partition(":")[0]
            if kind == "v":
                self.values[name] = each
            elif kind == "g":
                self.arrived = _added(self.arrived, {name: each})
            elif kind == "gp":
                self.lent = _added(self.lent, {name: each})
            else:
                self.buffers[name.removeprefix(NEW)] = each

    def _answer(self, stage: Stage) -> None:
        """Teach the synthesizers whose readers have all run backward; this stage was one of them."""
        for boundary in self.manifest.boundaries:
            unread = self.unread[boundary.name]
            if stage.stage in unread:
                unread.discard(stage.stage)
                if not unread and boundary.learn is not None:
                    self._run(boundary.learn, self._truth(boundary))

    def _truth(self, boundary: Boundary) -> dict[str, Array]:
        truths = {f"g:{name[2:]}": self.values[name] * 0 for name in boundary.values}
        return truths | {name: self.arrived[name] for name in truths if name in self.arrived}

    def _end(self) -> None:
        """Move what several stages share, and keep the buffers."""
        if self.manifest.shared is not None:
            self._run(self.manifest.shared.graph, self.lent)
        for name, each in self.buffers.items():
            self.graphs.store[name] = each


def _added(known: Mapping[str, Array], more: Mapping[str, Array]) -> dict[str, Array]:
    """The sums of arrays of the same names."""
    return {**known, **{name: known[name] + each if name in known else each for name, each in more.items()}}
