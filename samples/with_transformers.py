"""Hugging Face's Trainer trains a cut language model with tied weights; gradients of two batches add up."""

import argparse
import tempfile

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments, logging

import dni_fx
from dni_fx.integrations.transformers import DecoupledCallback


class Counting(Dataset[dict[str, torch.Tensor]]):
    """Sentences in which each word is the last one plus a step of their own; words are numbers below 32."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        words = (at + torch.arange(13) * (1 + at % 3)) % 32
        # The model would shift the labels by itself, but synthesizers are to see what it has to say next.
        return {"input_ids": words[:-1], "labels": words[:-1], "shift_labels": words[1:]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    logging.disable_progress_bar()

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=32, tie_word_embeddings=True, use_cache=False, bos_token_id=0, **sizes)
    )
    cut = dni_fx.decouple(model, plan="balanced:stages=2", context="shift_labels")
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=options.steps,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=3e-3,
            logging_steps=options.steps // 2,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,  # among them shift_labels
            use_cpu=True,
        )
        trainer = Trainer(cut, arguments, train_dataset=Counting())
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(DecoupledCallback(trainer))
        trainer.train()
        trainer.save_model()  # tied weights, synthesizers and all
    for entry in trainer.state.log_history:
        print({name: round(value, 3) for name, value in entry.items() if name != "epoch"})
