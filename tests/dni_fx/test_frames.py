"""Messages of any size come as they were sent: in their order, and laid out in memory as they were."""

import pytest
import torch
import torch.distributed as dist

from dni_fx.distributed.frames import framed
from dni_fx.distributed.processes import joined
from tests.processes import run_ranks


def trees():
    """Trees whose messages are small, of many blocks, or have their tensors behind them."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(4, 6, 8, 8, generator=generator)
    large = torch.randn(3, 1025, 1024, generator=generator)
    return [
        None,
        ["x" * 100_000, 3],
        {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "flags": torch.tensor([True, False])},
        [
            plain.to(memory_format=torch.channels_last),
            plain.transpose(0, 3),
            plain[:, ::2],
            plain[0].expand(9, 6, 8, 8),
        ],
        (large, large.transpose(0, 2), "after"),
        [
            torch.zeros(4096),
            torch.zeros(4096, dtype=torch.bfloat16),
            torch.full((1,), 1j).conj(),
        ],
        [torch.arange(7), torch.zeros(2**14 - 28, dtype=torch.uint8)],
        [torch.arange(7), torch.zeros(2**14, dtype=torch.uint8)],
        "end",
    ]


def exchanged(rank, times):
    wire = joined(60.0)
    for each in range(times):
        for at, tree in enumerate(trees()):
            wire.send(1 - rank, f"topic {at % 2}", [each, at, tree])
    found = []
    for _ in range(times):
        found += [wire.take(1 - rank, f"topic {at % 2}") for at in range(len(trees()))]
    again = wire.there(1 - rank, "topic 0")
    dist.barrier()
    return len(found), again, [difference(*each) for each in zip(found, sent(times), strict=True)]


def sent(times):
    return [[each, at, tree] for each in range(times) for at, tree in enumerate(trees())]


def difference(one, other):
    """What tells two trees apart, as a text."""
    flat, spec = torch.utils._pytree.tree_flatten(one)
    flat_too, spec_too = torch.utils._pytree.tree_flatten(other)
    if spec != spec_too:
        return f"{spec} is not {spec_too}"
    for mine, theirs in zip(flat, flat_too, strict=True):
        if not isinstance(mine, torch.Tensor):
            if mine != theirs:
                return f"{mine!r:.80} is not {theirs!r:.80}"
        elif not torch.equal(mine, theirs.resolve_conj()) or mine.dtype != theirs.dtype:
            return f"other values of {theirs.dtype} and shape {tuple(theirs.shape)}"
        elif mine.stride() != kept(theirs).stride():
            return f"strides {mine.stride()} of {tuple(theirs.shape)}, not {theirs.stride()}"
    return ""


def kept(tensor):
    """The same tensor, without gaps in its memory if it has some."""
    return tensor if torch.empty_like(tensor).stride() == tensor.stride() else tensor.contiguous()


def test_messages_of_any_size_come_as_they_were_sent():
    for count, again, differences in run_ranks(exchanged, 2, 3):
        assert count == 3 * len(trees())
        assert not again
        assert differences == [""] * count


@pytest.mark.parametrize("bytes_", [1, 2**14, 2**14 + 1, 2**23 + 1])
def test_a_message_is_blocks_of_one_size_and_what_is_large_behind_them(bytes_):
    parts = framed("topic", torch.zeros(bytes_, dtype=torch.uint8))
    blocks = [part for part in parts if part.tag == 0]
    behind = [len(part.bytes) for part in parts if part.tag]
    assert {len(block.bytes) for block in blocks} == {4096}
    assert len(blocks) == (1 if bytes_ == 1 or bytes_ > 2**14 else 5)
    assert behind == {2**14 + 1: [2**14 + 1], 2**23 + 1: [2**23, 1]}.get(bytes_, [])
