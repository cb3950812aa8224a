"""Bugs that were in the folders by which devices train, one test each."""

import numpy as np
import pytest

import dni_fx.device
from tests.browsers import shared_folder
from tests.trained_folders import batches, cut_of, written


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return shared_folder(tmp_path_factory)


def test_predictions_are_those_of_eval_mode(shared):
    """Stages run the modules of the model, and were traced when these were in train mode again."""
    session = dni_fx.device.open(written("norm and dropout", shared))
    x = batches(1)[0][0]
    wanted = cut_of("norm and dropout").eval()(x).detach().numpy()
    assert np.abs(session.predict(x.numpy())[0] - wanted).max() < 1e-6


def test_what_an_optimizer_keeps_of_shared_weights_has_a_file(shared):
    """It is read by the graph of no stage, and what no stage read had no home."""
    session = dni_fx.device.open(written("tied", shared))
    assert session.store["exp_avg:both.weight"].shape == (6, 6)
