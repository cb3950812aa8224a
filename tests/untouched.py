"""Everything that a user could see of a model, to compare before and after."""

import logging
import random

import numpy as np
import torch
from torch import Tensor


def seen(model):
    """Objects by identity, names in order, values, gradients, versions, flags, the state of the process."""
    return {
        "modules": [_module(path, each) for path, each in model.named_modules(remove_duplicate=False)],
        "tensors": [_tensor(each) for each in _tensors(model)],
        "state": list(model.state_dict()),
        "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
        "process": (
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.are_deterministic_algorithms_enabled(),
            logging.root.manager.disable,
        ),
    }


def _module(path, module):
    return path, id(module), type(module), module.training, [(k, _held(v)) for k, v in vars(module).items()]


def _held(value):
    """What an attribute is, and what lies in it if it is a container."""
    if isinstance(value, dict):
        return id(value), [(str(key), id(each)) for key, each in value.items()]
    if isinstance(value, list | tuple):
        return id(value), [id(each) for each in value]
    if isinstance(value, str | bool | int | float | set | frozenset):
        return repr(value)
    return id(value)


def _tensors(model):
    for module in model.modules():
        for value in vars(module).values():
            items = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
            )
            yield from (each for each in items if isinstance(each, Tensor))


def _tensor(tensor):
    own = tensor.grad if tensor.is_leaf else None
    gradient = None if own is None else (id(own), own._version, own.tolist())
    hooks = list(tensor._backward_hooks or {})
    value = str(tensor.detach().tolist())
    return id(tensor), tensor._version, tensor.requires_grad, tensor.data_ptr(), hooks, value, gradient
