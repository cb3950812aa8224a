"""How long each node of a graph takes, forward and backward, on the device where the example is."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.autograd.graph import get_gradient_edge
from typing_extensions import override

from passes.branches import BranchError
from passes.errors import PreconditionError
from passes.parts import OverParts, copied_parts
from passes.switches import switches_kept
from passes.values import value_of

LEAST, MOST = 3, 30
"""How many rounds are timed, after one to warm up."""

Observe = Callable[[int, int], None]
"""Called with how much is done of how much at most."""


def measure(
    gm: fx.GraphModule, leaves: Sequence[Tensor], budget: float = 2.0, observe: Observe | None = None
) -> None:
    """Every node has in `node.meta["seconds"]` the median time of its forward and its backward pass.

    The nodes of an annotated graph run one by one on copies of the model's tensors, so the model, random
    state and the examples stay as they are. All of them run `LEAST` times at least, and up to `MOST` times
    within `budget` seconds, in rounds over the graph: what else the machine does for a while then meets a few
    rounds of many nodes and no median. Backward is that of the gradients of all the node's inputs and
    parameters that need one. Inputs, attributes and the output take no time.

    What Python needs to call an operation counts, as it does when the graph runs. What it needs to start a
    backward pass, which a graph does once and this for each node, does not. Times of a few microseconds are
    little more than such overhead.

    Raises:
        PreconditionError: the graph is not annotated, or a node cannot run; says which and why.
    """
    if blank := [n.name for n in gm.graph.nodes if "value" not in n.meta and n.op != "output"]:
        raise PreconditionError(f"cannot measure {', '.join(blank[:5])}: annotate the graph first.")
    devices = {each.device for each in [*leaves, *gm.parameters()] if each.device.type == "cuda"}
    numbers = sorted({device.index or 0 for device in devices})
    with switches_kept(), torch.inference_mode(False), torch.enable_grad(), _without_collection():
        run = _Measuring(gm, Clock(tuple(devices)))
        restore = _restorer(run.parts.values())
        rounds, begin = 0, time.perf_counter()
        while rounds <= LEAST or (rounds <= MOST and time.perf_counter() - begin < budget):
            with torch.random.fork_rng(devices=numbers):
                run.run(*map(_leaf, map(torch.clone, leaves)), enable_io_processing=False)
            restore()
            rounds += 1
            if observe is not None:
                observe(rounds, 1 + MOST)
    for node in gm.graph.nodes:
        node.meta["seconds"] = statistics.median(run.times[node][1:]) if node in run.times else 0.0


@dataclass(frozen=True)
class Clock:
    """Seconds, read when the devices have done all that they were given."""

    devices: tuple[torch.device, ...] = ()

    def now(self) -> float:
        """Seconds since some moment."""
        for device in self.devices:
            torch.cuda.synchronize(device)
        return time.perf_counter()


class _Measuring(OverParts):
    """Runs a graph. The tensors that it hands on have no history, and need a gradient where they did."""

    def __init__(self, gm: fx.GraphModule, clock: Clock) -> None:
        super().__init__(gm, copied_parts(gm, lambda tensor: tensor.detach().clone()))
        self.clock = clock
        self.start = _start_of_backward(clock)
        self.times: defaultdict[fx.Node, list[float]] = defaultdict(list)

    @override
    def run_node(self, n: fx.Node) -> Any:
        try:
            return self._measured(n) if n.op.startswith("call") else _mapped(_leaf, super().run_node(n))
        except Exception as error:
            raise PreconditionError(_refusal(n, error)) from error

    def _measured(self, node: fx.Node) -> Any:
        """The value of a node for those who read it, after its time has been taken."""
        arguments = self.fetch_args_kwargs_from_env(node)
        part = self.parts[str(node.target)] if node.op == "call_module" else None
        module = part if isinstance(part, nn.Module) else nn.Module()

        def run(given: Any) -> Any:
            try:
                return getattr(self, node.op)(node.target, *given)
            except BranchError:
                if node.target is not torch.ops.dni_fx.follow.default:
                    raise
                return None  # another way than the one captured; its nodes take their time all the same

        if not value_of(node).mutates:
            value, seconds = self._timed(run, _mapped(_leaf, arguments), module, False)
            self.times[node].append(seconds)
            return _mapped(_leaf, value)
        # It is timed on copies, for nothing that needs a gradient may be written to, and run for its readers.
        given = _mapped(_copy, arguments)
        with _unchanged(module, self.clock):
            made, seconds = self._timed(run, given, module, True)
        self.times[node].append(seconds)
        value = _mapped(torch.Tensor.detach, run(_mapped(torch.Tensor.detach, arguments)))
        _need_alike(value, made)
        if any(
            new.requires_grad > old.requires_grad
            for old, new in zip(_tensors(arguments), _tensors(given), strict=True)
        ):
            self._need_gradients(node)
        return value

    def _timed(
        self, run: Callable[[Any], Any], given: Any, module: nn.Module, writes: bool
    ) -> tuple[Any, float]:
        """What a node makes, and the seconds of its forward and its backward pass."""
        inputs = [each for each in _tensors(given) if each.requires_grad]
        needing = [*inputs, *(each for each in module.parameters() if each.requires_grad)]
        edges = [get_gradient_edge(each) for each in needing]
        start = self.clock.now()
        made = run(given)
        seconds = self.clock.now() - start
        results = [each for each in _tensors((made, inputs if writes else ())) if each.grad_fn is not None]
        if not (edges and results):
            return made, seconds
        seeds = [torch.ones_like(each) for each in results]
        start = self.clock.now()
        torch.autograd.grad(results, edges, seeds, allow_unused=True)
        return made, seconds + max(self.clock.now() - start - self.start, 0.0)

    def _need_gradients(self, node: fx.Node) -> None:
        """What a node wrote to has become a function of all that it read."""
        written = value_of(node).mutates
        for earlier, value in self.env.items():
            if earlier.name in written:
                _mapped(_needing, value)


def _start_of_backward(clock: Clock) -> float:
    """Seconds that a backward pass takes in which there is next to nothing to do."""
    device = clock.devices[0] if clock.devices else torch.device("cpu")
    one = torch.zeros(1, device=device, requires_grad=True)
    seed = torch.ones_like(one)
    times: list[float] = []
    for _ in range(MOST):
        made = one.view(1)
        start = clock.now()
        torch.autograd.grad([made], [get_gradient_edge(one)], [seed], allow_unused=True)
        times.append(clock.now() - start)
    return min(times)


def _tensors(value: Any) -> list[Tensor]:
    return [each for each in pytree.tree_leaves(value) if isinstance(each, Tensor)]


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    return pytree.tree_map_only(Tensor, function, value)


def _leaf(tensor: Tensor) -> Tensor:
    """The tensor's memory without its history."""
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _copy(tensor: Tensor) -> Tensor:
    """A copy that may be written to."""
    copy = tensor.detach().clone()
    return copy.requires_grad_().clone() if tensor.requires_grad else copy


def _needing(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_(tensor.is_floating_point() or tensor.is_complex())


def _need_alike(value: Any, like: Any) -> None:
    """Tensors need a gradient from here on where those of the other value do."""
    for each, other in zip(_tensors(value), _tensors(like), strict=True):
        each.requires_grad_(other.requires_grad)


def _restorer(parts: Iterable[Any]) -> Callable[[], None]:
    """A function that gives the buffers among parts of a model back what they hold now.

    Parameters that a forward pass writes to are left as they are: their time is that of any others.
    """
    found = list(parts)
    modules = [each for part in found if isinstance(part, nn.Module) for each in part.modules()]
    slots = [(buffers, dict(buffers)) for buffers in (vars(each)["_buffers"] for each in modules)]
    held = [each for _, buffers in slots for each in buffers.values()] + found
    tensors = [each for each in held if isinstance(each, Tensor) and not isinstance(each, nn.Parameter)]
    copies = [(each, each.detach().clone()) for each in tensors]

    def restore() -> None:
        for buffers, old in slots:
            buffers.update(old)
        with torch.no_grad():
            for tensor, copy in copies:
                tensor.copy_(copy)

    return restore


@contextlib.contextmanager
def _unchanged(module: nn.Module, clock: Clock) -> Generator[None]:
    """What runs inside leaves the module's buffers and the random state as they were."""
    restore = _restorer([module])
    with torch.random.fork_rng(devices=[device.index or 0 for device in clock.devices]):
        yield
    restore()


@contextlib.contextmanager
def _without_collection() -> Generator[None]:
    """Inside, the garbage collector does not run."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _refusal(node: fx.Node, error: Exception) -> str:
    what = getattr(node.target, "__name__", str(node.target))
    reason = (str(error).splitlines() or [""])[0]
    return (
        f"cannot measure node {node.name} ({node.op} {what}): it fails on the example, each node by itself: "
        f"{type(error).__name__}: {reason}. Balance by flops, which needs no run."
    )
