"""A cut language model of the `transformers` package is still one of that package."""

import copy

import pytest
import torch

import dni_fx
from tests.equality import assert_same
from tests.everyday import grads_of, works

CLASS = "your class: `isinstance`, methods, `config`, `generate`, `save_pretrained`"
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 20, "n_positions": 16}
NO_DROPOUT = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}


@pytest.fixture(scope="module")
def both():
    """A tiny model, a cut copy that sends true gradients, and what to call them with."""
    transformers = pytest.importorskip("transformers", reason="the package is not installed")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        **SIZES, **NO_DROPOUT, bos_token_id=0, eos_token_id=0, use_cache=False, loss_type="ForCausalLM"
    )
    model = transformers.GPT2LMHeadModel(config).double().train()
    ids = torch.randint(1, 20, (2, 5))
    inputs = {"input_ids": ids, "labels": ids}
    cut = dni_fx.decouple(copy.deepcopy(model), inputs, synthesizer="oracle", context="labels")
    return model, cut, inputs


@works(CLASS)
def test_loss_and_gradients_are_those_of_the_model(both):
    model, cut, inputs = both
    model.train(), cut.train()
    losses = [each(**inputs).loss for each in (model, cut)]
    assert_same(*losses)
    for loss in losses:
        loss.backward()
    assert_same(grads_of(cut), grads_of(model), tolerance=1e-10)
    assert len(dni_fx.boundaries(cut)) == 1


@pytest.mark.parametrize("training", [False, True])
@works(CLASS)
def test_it_generates_what_the_model_generates(both, training):
    model, cut, inputs = both
    asked = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    asked["attention_mask"] = torch.ones_like(inputs["input_ids"])
    made = [each.train(training).generate(inputs["input_ids"], **asked) for each in (model, cut)]
    assert_same(*made)
    assert made[0].shape[1] > 5


@works(CLASS)
def test_it_keeps_its_class_and_configuration(both):
    model, cut, _ = both
    assert isinstance(cut, type(model))
    assert cut.config.to_dict() == model.config.to_dict()
    assert cut.num_parameters() == model.num_parameters()


@works(CLASS)
def test_what_it_saves_is_loaded_as_the_model(both, tmp_path):
    model, cut, _ = both
    cut.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    assert_same(dict(again.state_dict()), dict(model.state_dict()))
