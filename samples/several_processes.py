"""One script for one process and for many.

python samples/several_processes.py
torchrun --nproc-per-node 2 samples/several_processes.py
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dni_fx

SAMPLES, WIDTH, CLASSES = 4000, 32, 4


def accuracy(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (scores.argmax(1) == target).float().mean()


def clusters() -> TensorDataset:
    """Points around as many centers as there are classes."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(CLASSES, WIDTH, generator=generator)
    target = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return TensorDataset(centers[target] + 1.5 * torch.randn(SAMPLES, WIDTH, generator=generator), target)


def main() -> None:
    torch.manual_seed(0)
    layers = [part for _ in range(4) for part in (nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
    data = clusters()
    train, test = torch.utils.data.random_split(data, [3000, 1000], torch.Generator().manual_seed(1))

    cut = dni_fx.decouple(model, (data[:2][0],), plan="balanced:stages=4", synthesizer="critic")
    report = dni_fx.train(
        cut,
        DataLoader(train, 50, shuffle=True),
        loss=F.cross_entropy,
        epochs=3,
        validation=DataLoader(test, 500),
        runtime="distributed:lag=2",
        labels_as_context=True,
        metrics={"accuracy": accuracy},
        progress=False,
    )
    # Every process has the report and the whole model now; one of them is enough to tell.
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        print(report)


if __name__ == "__main__":
    main()
