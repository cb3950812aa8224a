"""Where the batch and the features are in one value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from passes import ValueSpec


@dataclass(frozen=True)
class Axes:
    """The dimensions of one value that have a meaning.

    `batch` is None where no size follows the batch, and `feature` where a value has no dimension but its
    batch: it then has one feature.
    """

    features: int
    dtype: torch.dtype
    batch: int | None
    feature: int | None

    @classmethod
    def of(cls, value: ValueSpec) -> Axes:
        """The axes of a value. Refuses nothing."""
        rank = len(value.shape)
        batch = value.batch_dim if 0 <= value.batch_dim < rank else None
        feature = value.feature_dim % rank if rank else None
        if feature == batch:
            feature = None
        return cls(1 if feature is None else value.shape[feature], value.dtype, batch, feature)

    def to_features_last(self, value: Tensor) -> Tensor:
        """The value as `(batch, *rest, features)`, or `(*rest, features)` if it has no batch."""
        value = value.unsqueeze(-1) if self.feature is None else value
        return value if self._is_in_place(value) else value.movedim(self._here, self._there)

    def from_features_last(self, value: Tensor) -> Tensor:
        """The inverse of `to_features_last`."""
        value = value if self._is_in_place(value) else value.movedim(self._there, self._here)
        return value.squeeze(-1) if self.feature is None else value

    def width(self, value: Tensor) -> int:
        """How many features this tensor has."""
        return 1 if self.feature is None else value.shape[self.feature]

    def lead(self, value: ValueSpec) -> tuple[int | str, ...]:
        """The sizes before the features of `to_features_last`: of the batch, if any, and the positions."""
        rest = (size for at, size in enumerate(value.dims) if at not in (self.batch, self.feature))
        return (*rest,) if self.batch is None else (value.dims[self.batch], *rest)

    def _is_in_place(self, value: Tensor) -> bool:
        """Whether a value has its batch in front and its features behind as it is, so that none is moved."""
        return self.batch == 0 and self.feature == value.dim() - 1

    @property
    def _here(self) -> tuple[int, ...]:
        feature = -1 if self.feature is None else self.feature
        return (feature,) if self.batch is None else (self.batch, feature)

    @property
    def _there(self) -> tuple[int, ...]:
        return (-1,) if self.batch is None else (0, -1)


def is_image(value: ValueSpec) -> bool:
    """Whether a value is (batch, channels, *space) with one to three dimensions in space."""
    rank = len(value.shape)
    return 3 <= rank <= 5 and value.batch_dim == 0 and value.feature_dim % rank == 1
