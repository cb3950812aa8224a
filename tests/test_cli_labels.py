"""Arrays that a model cannot be trained on: what is told of their labels, types and names."""

import numpy as np
import pytest

from tests.commands import MLP, in_an_empty_folder, refusal, run

__all__ = ["in_an_empty_folder"]

X, Y = np.random.default_rng(0).random((8, 64), dtype=np.float32), np.arange(8)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"y_train": Y - 1}, "the training data of d.npz has the label -1, and the model has 10 outputs"),
        ({"y_train": Y.astype(float)}, "Classes are integers: store them as np.int64."),
        ({"x_train": X.astype(np.uint8)}, "(the inputs are uint8, and the model computes with float32)"),
        ({"x_test": X}, "it has x_train, y_train, x_test, and no y_test."),
        ({"y_test": Y}, "it has x_train, y_train, y_test, and no x_test."),
    ],
)
def test_what_is_wrong_with_the_arrays_is_told(changed, told):
    np.savez("d.npz", **({"x_train": X, "y_train": Y} | changed))
    assert told in refusal(f"train {MLP} --data d.npz")


def test_the_label_that_stands_for_none_is_taken():
    np.savez("d.npz", x=X, y=np.where(Y == 3, -100, Y))
    assert "epoch 1" in run(f"train {MLP} --data d.npz")
