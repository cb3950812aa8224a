"""Under the Trainer of transformers a cut model trains as in a loop written out by hand."""

import copy
import pickle

import pytest
import torch

import dni_fx
from dni_fx.errors import DniError
from tests.equality import assert_same
from tests.trainers import (
    BATCH,
    Careless,
    Net,
    Rows,
    Tokens,
    assert_equal,
    by_hand,
    cut_of,
    differ,
    in_groups,
    pair,
    sgd,
)

transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file
pytest.importorskip("accelerate")
integration = pytest.importorskip("dni_fx.integrations.transformers")

STILL = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
PLAIN = {"per_device_train_batch_size": BATCH, "max_grad_norm": 0, "lr_scheduler_type": "constant"}


def trainer_of(cut, folder, rows=None, callback=True, optimizer=None, **options):
    """A Trainer that takes the rows in order, with plain SGD."""
    arguments = transformers.TrainingArguments(
        str(folder), **STILL | PLAIN | {"train_sampling_strategy": "sequential"} | options
    )
    rows = Rows() if rows is None else rows
    optimizers = (optimizer or sgd(cut), None)
    made = transformers.Trainer(cut, arguments, train_dataset=rows, eval_dataset=rows, optimizers=optimizers)
    made.remove_callback(transformers.PrinterCallback)
    if callback:
        made.add_callback(integration.DecoupledCallback(made))
    return made


def even(batch, group):
    return 1 / len(group)


def by_labels(batch, group):
    return int((batch["labels"] != -100).sum()) / sum(int((each["labels"] != -100).sum()) for each in group)


@pytest.mark.parametrize("k", [1, 4])
def test_gradients_of_k_batches_add_up_as_by_hand_in_a_shorter_last_group_too(k, tmp_path):
    cut, other = pair()
    trainer_of(cut, tmp_path, gradient_accumulation_steps=k, num_train_epochs=2).train()
    by_hand(other, in_groups(Rows().batches(), k), even, epochs=2)
    assert_equal(cut, other)
    assert cut.gradient_scale == 1


def test_without_the_callback_they_would_not(tmp_path):
    cut, other = pair()
    trainer_of(cut, tmp_path, callback=False, gradient_accumulation_steps=4, num_train_epochs=2).train()
    by_hand(other, in_groups(Rows().batches(), 4), even, epochs=2)
    assert differ(cut, other)


def test_where_the_model_divides_by_the_labels_of_the_step_each_batch_counts_by_its_labels(tmp_path):
    cut, other = pair(Tokens())
    rows = Rows(sequences=True)
    trainer_of(cut, tmp_path, rows, gradient_accumulation_steps=4, num_train_epochs=2).train()
    by_hand(other, in_groups(rows.batches(), 4), by_labels, epochs=2)
    assert_equal(cut, other)


def test_where_the_model_divides_by_nothing_each_batch_counts_whole_once_its_graph_has_shown_that(tmp_path):
    cut, other = pair(Careless())
    batches = Rows().batches()
    trainer_of(cut, tmp_path, gradient_accumulation_steps=5, num_train_epochs=2).train()
    first = [batches[0]["x"]]  # when it is captured the Trainer counts on being heard

    def share(batch, group):
        return by_labels(batch, group) if first and batch["x"] is first.pop() else 1

    by_hand(other, in_groups(batches, 5), share, epochs=2, weight=lambda batch, group: 1)
    assert_equal(cut, other)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_loss_scaler_changes_nothing(at_once, tmp_path):
    cut, other = pair(at_once=at_once)
    made = trainer_of(cut, tmp_path, gradient_accumulation_steps=4, num_train_epochs=2)
    # On a CPU accelerate makes none for float16.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    made.accelerator.scaler = scaler
    seen = set()
    cut.register_forward_hook(lambda model, *_: seen.add(model.gradient_scale))
    made.train()
    by_hand(other, in_groups(Rows().batches(), 4), even, epochs=2)
    assert_equal(cut, other)
    assert {2.0**10 / 4, 2.0**11 / 4, 2.0**11 / 2} <= seen


def test_mixed_precision_trains_a_model_that_is_captured_on_the_way(tmp_path):
    cut = cut_of(Net().float(), at_once=False)
    before = copy.deepcopy(cut.state_dict())
    rows = Rows()
    rows.x = rows.x.float()
    trainer_of(cut, tmp_path, rows, bf16=True, max_steps=5).train()
    assert not torch.equal(cut.last.weight, before["last.weight"])
    assert len(dni_fx.boundaries(cut)) == 2
    assert dni_fx.recouple(cut)(**rows.batches()[0])["logits"].dtype == torch.float32


@pytest.mark.parametrize("at_once", [True, False])
def test_a_run_that_was_saved_and_resumed_ends_as_one_that_was_not(at_once, tmp_path):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    torch.manual_seed(0)
    first, again = (cut_of(Net(), at_once=at_once, stirred=False) for _ in range(2))
    assert differ(first, again)
    trainer_of(first, tmp_path, optimizer=momentum(first), **options).train()
    trainer_of(again, tmp_path, optimizer=momentum(again), **options).train(str(tmp_path / "checkpoint-3"))
    assert_equal(again, first, tolerance=0)
    assert float(again.state_dict()["dni.steps"]) == 12


def momentum(cut):
    return torch.optim.SGD(cut.parameters(), lr=0.1, momentum=0.9)


def test_evaluation_runs_the_original(tmp_path):
    cut, _ = pair()
    model = dni_fx.recouple(copy.deepcopy(cut))
    made = trainer_of(cut, tmp_path, max_steps=3, eval_strategy="steps", eval_steps=1)
    start = cut.state_dict()["dni.steps"].clone()
    predicted = made.predict(Rows()).predictions
    with torch.no_grad():
        assert_same(torch.from_numpy(predicted), model(Rows().x, Rows().labels)["logits"], tolerance=1e-12)
    assert torch.equal(cut.state_dict()["dni.steps"], start)
    made.train()
    assert torch.equal(cut.state_dict()["dni.steps"], start + 3)


def test_diagnoses_are_logged_with_the_loss(tmp_path):
    cut, _ = pair()
    made = trainer_of(cut, tmp_path, max_steps=4, logging_steps=2)
    made.train()
    names = {f"{kind}/{name}" for kind in KINDS for name in dni_fx.boundaries(cut)}
    logged = [entry for entry in made.state.log_history if names <= entry.keys()]
    assert [entry["step"] for entry in logged] == [2, 4]
    assert sum("loss" in entry for entry in made.state.log_history) == 2
    assert -1 <= logged[0]["cosine/first_1"] <= 1
    found = dni_fx.boundaries(cut)["first_1"].diagnosis
    cut(**Rows().batches()[0])["loss"].backward()
    assert dni_fx.boundaries(cut)["first_1"].diagnosis is found  # nobody asks any more


KINDS = ("cosine", "sign", "error", "scale", "mix")


def test_tied_weights_are_saved_and_loaded_by_all_of_their_names(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    cut, again = (cut_of(Net(tied=True)) for _ in range(2))
    made = trainer_of(cut, tmp_path, **options)
    made.train()
    made.save_model(str(tmp_path / "own"))
    assert differ(again, cut)
    trainer_of(again, tmp_path, **options).train(str(tmp_path / "checkpoint-2"))
    assert_equal(again, cut, tolerance=0)
    assert again.third.weight is again.second[0].weight
    state = load_file(tmp_path / "own" / "model.safetensors")
    assert_same({name: state[name] for name in cut.state_dict()}, dict(cut.state_dict()))
    assert len(state) == len(cut.state_dict())


def test_a_model_is_copied_and_pickled_in_the_middle_and_the_copies_tell_nobody(tmp_path):
    class Copies(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            copies[:] = copy.deepcopy(kwargs["model"]), pickle.loads(pickle.dumps(kwargs["model"]))

    (cut, _), copies = pair(), []
    made = trainer_of(cut, tmp_path, gradient_accumulation_steps=4, max_steps=2)
    made.add_callback(Copies())
    made.train()
    assert cut.gradient_scale == 1
    for twin in copies:
        assert twin.gradient_scale == 1 / 4
        assert_equal(twin, cut, tolerance=0)
        twin(**Rows().batches()[0])
        assert cut.gradient_scale == 1


def test_a_model_that_holds_a_cut_one_is_trained_by_its_path(tmp_path):
    class Holder(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, labels):
            return self.inner(x=x, labels=labels)

    cut, other = pair()
    made = trainer_of(
        Holder(cut), tmp_path, gradient_accumulation_steps=4, num_train_epochs=1, logging_steps=1
    )
    made.train()
    by_hand(other, in_groups(Rows().batches(), 4), even)
    assert_equal(cut, other)
    assert any("cosine/inner.first_1" in entry for entry in made.state.log_history)


def test_a_trainer_without_a_cut_model_is_refused(tmp_path):
    with pytest.raises(DniError, match="nothing in Net is cut, so there is nothing to call back for"):
        trainer_of(Net(), tmp_path)


def language_model():
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    config = transformers.LlamaConfig(
        **sizes, vocab_size=20, max_position_embeddings=16, tie_word_embeddings=True, use_cache=False
    )
    return dni_fx.decouple(transformers.LlamaForCausalLM(config), context="labels")


class Sentences(Rows):
    def __init__(self):
        super().__init__(sequences=True)
        self.ids = torch.randint(20, (len(self), 6))
        self.labels = torch.where(torch.rand(self.ids.shape) < 0.3, -100, self.ids)

    def __getitem__(self, at):
        return {"input_ids": self.ids[at], "labels": self.labels[at]}


def test_a_causal_language_model_with_tied_weights_is_resumed_and_its_shares_add_up_to_one(tmp_path):
    options = {"max_steps": 4, "save_steps": 2, "gradient_accumulation_steps": 4}
    cut, again = language_model(), language_model()
    shares = []
    handle = cut.register_forward_hook(lambda model, *_: shares.append(model.gradient_scale))
    rows = Sentences()
    made = trainer_of(cut, tmp_path, rows, save_strategy="steps", **options)
    made.train()
    handle.remove()
    assert [sum(group) for group in in_groups(shares[:10], 4)] == pytest.approx([1, 1, 1])
    assert len(set(shares)) > 5
    trainer_of(again, tmp_path, rows, save_strategy="steps", **options).train(str(tmp_path / "checkpoint-2"))
    assert_equal(again, cut, tolerance=0)
    assert again.lm_head.weight is again.model.embed_tokens.weight
