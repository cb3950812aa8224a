"""A schedule for the stages of torch.distributed.pipelining, in which none waits for gradients."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining.schedules import PipelineScheduleSingle
from torch.distributed.tensor import DTensor
from typing_extensions import override

from dni_fx.dni import DNI
from dni_fx.errors import StageError
from dni_fx.integrations.parcels import Awaited, Sent, Waiter, memory_of, place_of, posted
from dni_fx.integrations.stage_end import StageEnd
from dni_fx.interface import Interface
from dni_fx.synthesizers import Synthesizer


class ScheduleDNI(PipelineScheduleSingle):
    """Runs a stage backward as soon as it has run forward, on a guess of the gradient of its outputs.

    It takes the place of `ScheduleGPipe` on every rank; stages, loss and optimizers are what they were:

        stage = PipelineStage(module, rank, ranks, torch.device("cpu"))
        schedule = ScheduleDNI(stage, 4, loss_fn, synthesizer="mlp", interface="dni:warmup=100")
        optimizer = torch.optim.Adam(module.parameters())
        for x, y in batches:
            optimizer.zero_grad()
            schedule.step(x) if stage.is_first else schedule.step(target=y)
            optimizer.step()
        schedule.settle()

    True gradients come back while a stage goes on, and teach its synthesizer at the end of the step in which
    they are there. A stage is at most `lag` steps ahead of them; with 0, `step` ends when they have come. If
    it is `deterministic`, they count just `lag` steps later and not as soon as they come, so that a run can
    be repeated. While the interface sends true gradients (its `warmup`, `fade`, `window` or guard), the stage
    waits for them, as under GPipe, and updates nothing by a guess.

    Each micro-batch teaches for itself, and its gradients are scaled as torch has it. `feature_dim` is the
    dimension of the features in the outputs: 1 for images `(batch, channels, height, width)`. With
    `interface="dni:classes=10"` and the `target` given to `step` on every rank, synthesizers see it as
    labels. `options` are those of `PipelineScheduleSingle`. Stages are on the CPU, where gloo carries what
    they send.

    Sources:
        Jaderberg et al. 2017, https://arxiv.org/abs/1608.05343, section 2.

    Raises:
        StageError: the lag is negative, the stage is not on the CPU, or true gradients would go up for good.
        SynthesizerError: the synthesizer wants to be told what a schedule cannot tell.
        UnknownNameError, SpecError: a text form names nothing, or cannot be read.
    """

    def __init__(
        self,
        stage: Any,  # torch has no public name for all that it makes stages of
        n_microbatches: int,
        loss_fn: Any = None,
        *,
        synthesizer: str | Synthesizer = "linear",
        interface: str | Interface = "dni",
        lag: int = 4,
        deterministic: bool = False,
        feature_dim: int = -1,
        **options: Any,
    ) -> None:
        super().__init__(stage, n_microbatches, loss_fn, **options)
        _refuse(stage, lag)
        self.lag = lag
        self.deterministic = deterministic
        self._end = StageEnd(stage.stage_index, synthesizer, interface, feature_dim)
        self._awaited: deque[Awaited] = deque()
        self._memory: set[int] = set()
        self._waiter = Waiter()

    @property
    def dni(self) -> DNI | None:
        """What guesses at the end of this stage; None on the last one, and before the first step."""
        return self._end.dni

    @property
    def behind(self) -> int:
        """The number of micro-batches whose true gradients have not been taken in yet."""
        return len(self._awaited)

    def settle(self) -> None:
        """Wait for all true gradients that are still to come, and learn from them.

        A rank that leaves before takes with it what the next one has not received yet.

        Raises:
            StageError: they never will.
        """
        self._catch_up(self._end.now.number)

    def state_dict(self) -> dict[str, Any]:
        """What the synthesizer of this stage has learned, when all true gradients have come.

        Raises:
            StageError: they never will.
        """
        self.settle()
        return self._end.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same stage.

        Raises:
            StageError: true gradients that are still to come never will.
        """
        self.settle()
        self._end.load_state_dict(state)

    @override
    def _step_microbatches(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        arg_mbs: list[Any] | None = None,
        kwarg_mbs: list[Any] | None = None,
        target_mbs: list[Any] | None = None,
        losses: list[Any] | None = None,
        return_outputs: bool = True,
        **told: Any,  # to the loss, as of torch 2.13
    ) -> None:
        args, kwargs = self._check_inputs(arg_mbs, kwarg_mbs, target_mbs, losses)
        if not self._has_backward:
            self.settle()  # stages tell one another of their shapes when the mode changes, in the same order
        self._initialize(args[0], kwargs[0], target_mbs, told)
        self._memory = memory_of(self._stage.submod)
        steps = self._forwards(args, kwargs, target_mbs, return_outputs, told)
        if self._has_backward:
            self._train(steps, target_mbs)
        else:
            for sent in list(steps):
                sent.wait()
        self._update_losses(self._stage, losses)

    def _initialize(self, args: Any, kwargs: Any, targets: list[Any] | None, told: dict[str, Any]) -> None:
        known = {"target": targets[0] if targets else None, **told}
        taken = inspect.signature(self._initialize_stage).parameters
        self._initialize_stage(args, kwargs, **{key: known[key] for key in known if key in taken})

    def _forwards(
        self,
        args: list[Any],
        kwargs: list[Any],
        targets: list[Any] | None,
        return_outputs: bool,
        told: dict[str, Any],
    ) -> Iterator[Sent]:
        """Run forward one micro-batch at each turn, and send what the next stage reads."""
        stage = self._stage
        for i in range(self._n_microbatches):
            Sent(ops := stage.get_fwd_recv_ops(i), posted(ops)).wait()
            output = stage.forward_one_chunk(i, args[i], kwargs[i], save_forward_output=return_outputs)
            self._maybe_compute_loss(stage, output, targets, i, **told)
            yield self._send(stage.get_fwd_send_ops(i), stage.fwd_cache[i][1])

    def _train(self, forwards: Iterator[Sent], targets: list[Any] | None) -> None:
        now = self._end.now
        now.number += 1
        answers: list[Sent] = []
        held: list[Awaited] = []
        is_locked = False
        for i, sent in enumerate(forwards):
            if self._stage.is_last:
                answers.append(self._backward(i, None))
                continue
            awaited = self._await(i, sent)
            self._end.meet(awaited.values, None if targets is None else targets[i])
            if i == 0:
                is_locked = self._end.is_locked
            if is_locked:
                held.append(awaited)
                continue
            awaited.synthesis, up = self._end.guess(awaited.values)
            answers.append(self._backward(i, (awaited.places, up)))
            awaited.values = []
            self._awaited.append(awaited)
        if held:
            self._catch_up(now.number - 1)
        for i, awaited in enumerate(held):
            answers.append(self._go_by_truth(i, awaited, None if targets is None else targets[i]))
        self._stage.perform_reduce_grad(self._n_microbatches if self.scale_grads else 1)
        self._catch_up(now.number - self.lag)
        for each in answers:
            each.wait()  # the stage before asked for it as soon as it had sent what it is for

    def _go_by_truth(self, i: int, awaited: Awaited, labels: Tensor | None) -> Sent:
        self._take_in(awaited)
        self._end.meet(awaited.values, labels)
        return self._backward(i, (awaited.places, self._end.mixed(awaited.values, awaited.true)))

    def _await(self, i: int, sent: Sent) -> Awaited:
        """Ask for the true gradients of a micro-batch, to be put where no guess is."""
        outputs: Sequence[Any] = self._stage.fwd_cache[i][0]
        ops = self._stage.get_bwd_recv_ops(i)
        for op in ops:
            op.tensor = torch.empty(op.tensor.shape, dtype=op.tensor.dtype, device=op.tensor.device)
        arriving = iter(ops)
        found = {
            at: (output, next(arriving).tensor)
            for at, (output, info) in enumerate(zip(outputs, self._stage.grad_recv_info[i], strict=True))
            if info.buffer is not None
        }
        found = {at: both for at, both in found.items() if _carries_gradient(both[0])}
        arrival = self._waiter.wait_for(Sent(ops, posted(ops)))
        values, true = [value for value, _ in found.values()], [gradient for _, gradient in found.values()]
        return Awaited(self._end.now.number, values, list(found), true, sent, arrival)

    def _backward(self, i: int, upward: tuple[list[int], tuple[Tensor, ...]] | None) -> Sent:
        stage = self._stage
        if upward is not None:
            whole: list[Tensor | None] = [info.buffer for info in stage.grad_recv_info[i]]
            for at, up in zip(*upward, strict=True):
                whole[at] = up
            stage.set_local_bwd_input(tuple(whole), i)
        loss = self._maybe_get_loss(stage, i)
        stage.backward_one_chunk(i, loss=loss, last_backward=i == self._n_microbatches - 1)
        return self._send(stage.get_bwd_send_ops(i), ())

    def _send(self, ops: list[dist.P2POp], inputs: Sequence[Any]) -> Sent:
        """Send tensors as they are now, whatever becomes of inputs and parameters that they may lie in."""
        memory = self._memory | {place_of(each) for each in inputs if isinstance(each, Tensor)}
        for op in ops:
            own = op.tensor.detach()
            op.tensor = own.clone() if place_of(own) in memory else own
        return Sent(ops, posted(ops))

    def _catch_up(self, number: int) -> None:
        """Take in what belongs to steps up to this one, and what else has come if that may count."""
        while self._awaited and (self._awaited[0].number <= number or self._is_there(self._awaited[0])):
            awaited = self._awaited.popleft()
            self._take_in(awaited)
            if awaited.synthesis is not None:
                self._end.learn(awaited.synthesis, awaited.true)

    def _is_there(self, awaited: Awaited) -> bool:
        return not self.deterministic and awaited.arrival.done()

    def _take_in(self, awaited: Awaited) -> None:
        """Wait for true gradients; what they are for has arrived then, too."""
        awaited.arrival.result()
        awaited.sent.wait()


def _refuse(stage: Any, lag: int) -> None:
    if lag < 0:
        raise StageError(f"lag is 0 or more steps, not {lag}.")
    if torch.device(stage.device).type != "cpu":
        raise StageError(
            f"stage {stage.stage_index} is on {stage.device}, and ScheduleDNI is for stages on the CPU, "
            "where what is still to be received keeps nothing from being sent. Use a schedule of torch."
        )


def _carries_gradient(output: Any) -> bool:
    if isinstance(output, DTensor):
        raise StageError("ScheduleDNI guesses for plain tensors, and a stage has returned a DTensor.")
    return isinstance(output, Tensor) and output.requires_grad
