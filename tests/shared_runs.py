"""One run of a net with dropout, schedules and labels for all, and what tells two runs apart."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import keystr, tree_flatten_with_path
from torch.utils.data import DataLoader, TensorDataset

import dni_fx

WIDTH, CLASSES = 12, 5


def net(drop=0.2):
    torch.manual_seed(0)
    layers = [part for _ in range(5) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Dropout(drop))]
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)).double()


def loader(shuffle=True):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, WIDTH, generator=generator, dtype=torch.float64)
    y = torch.randint(CLASSES, (60,), generator=generator)
    order = torch.Generator().manual_seed(2)
    return DataLoader(TensorDataset(x, y), 10, shuffle=shuffle, generator=order)


def trainer_of(runtime, plan="balanced:stages=3", **options):
    example = torch.zeros(10, WIDTH, dtype=torch.float64)
    cut = dni_fx.decouple(net(), (example,), plan=plan, synthesizer="critic")
    options = {"scheduler": decay, "per_epoch": True} | options
    return dni_fx.Trainer(
        cut,
        loss=F.cross_entropy,
        optimizer=adam,
        runtime=runtime,
        labels_as_context=True,
        metrics={"accuracy": lambda out, y: (out.argmax(1) == y).double().mean()},
        **options,
    )


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


def decay(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)


def fitted(runtime, epochs=2, **options):
    """The figures of a run, and the model that it leaves."""
    trainer = trainer_of(
        runtime, **{key: options.pop(key) for key in {"accumulate", "clip"} & options.keys()}
    )
    report = trainer.fit(loader(), epochs, validation=loader(shuffle=False), progress=False, **options)
    figures = [[each.loss, dict(each.metrics), dict(each.validation), each.cosine] for each in report.epochs]
    records = [
        [record.step, record.loss, {name: found.cosine for name, found in record.boundaries.items()}]
        for record in report.history
    ]
    return figures, records, {key: value.clone() for key, value in trainer.cut.state_dict().items()}


def on_rank(rank, runtime, epochs, options):
    return fitted(runtime, epochs, **options)


def same(ours, theirs):
    assert ours[:2] == theirs[:2]
    assert ours[2].keys() == theirs[2].keys()
    for key, value in ours[2].items():
        assert torch.equal(value, theirs[2][key]), key


def assert_equal_trees(one, other):
    mine, theirs = (
        {keystr(at): value for at, value in tree_flatten_with_path(tree)[0]} for tree in (one, other)
    )
    assert mine.keys() == theirs.keys()
    for at, value in mine.items():
        is_tensor = isinstance(value, torch.Tensor)
        assert torch.equal(value, theirs[at]) if is_tensor else value == theirs[at], at
