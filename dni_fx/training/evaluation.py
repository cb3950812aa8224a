"""Measuring a model on data that it does not learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from dni_fx.modes import eval_mode
from dni_fx.training.batches import Batch, Metric, device_of, measured
from dni_fx.training.means import Means
from dni_fx.training.stream import Stream


def evaluate(model: nn.Module, batches: Iterable[Any], metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Mean of each metric over the batches, in eval mode and without gradients.

    The state of a model that was cut with `carry=` goes from batch to batch.
    """
    means, stream = Means(), Stream(model)
    device = device_of(model)
    with eval_mode(model), torch.no_grad():
        for each in batches:
            batch = stream.given(Batch.of(each, device))
            with batch.explained(model):
                outputs = model(*batch.args, **batch.kwargs)
            stream.take(outputs)
            for name, value in measured(metrics, outputs, batch.target).items():
                means.add(name, value, batch.size)
    return means.all()
