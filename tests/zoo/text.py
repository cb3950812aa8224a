"""Architectures that read text: encoders that classify it, decoders and pairs of both that write it."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.zoo.architecture import Architecture

WORDS, LENGTH, CLASSES = 29, 7, 3

ENCODER = {
    "vocab_size": WORDS,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "num_labels": CLASSES,
}
DECODER = {
    "vocab_size": WORDS,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
FEW_HEADS = {key: value for key, value in DECODER.items() if key not in {"num_key_value_heads", "head_dim"}}


def tokens(batch: int) -> dict[str, Tensor]:
    """Numbers of words, the last two of every second sentence padding."""
    words = torch.randint(3, WORDS, (batch, LENGTH))
    mask = torch.ones_like(words)
    mask[1::2, -2:] = 0
    return {"input_ids": words.where(mask.bool(), 0), "attention_mask": mask}


def classified(batch: int) -> dict[str, Tensor]:
    """Sentences with a class each."""
    return {**tokens(batch), "labels": torch.randint(CLASSES, (batch,))}


def continued(batch: int) -> dict[str, Tensor]:
    """Sentences whose every word is to be told from those before it."""
    found = tokens(batch)
    return {**found, "labels": found["input_ids"].where(found["attention_mask"].bool(), -100)}


def translated(batch: int) -> dict[str, Tensor]:
    """Sentences with another one each, which is to be written."""
    return {**tokens(batch), "labels": torch.randint(3, WORDS, (batch, LENGTH - 2))}


MODELS = {
    "albert": Architecture("AlbertForSequenceClassification", classified, {**ENCODER, "embedding_size": 6}),
    "bart": Architecture(
        "BartForConditionalGeneration",
        translated,
        {
            "vocab_size": WORDS,
            "d_model": 8,
            "encoder_layers": 3,
            "decoder_layers": 3,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 12,
            "decoder_ffn_dim": 12,
            "max_position_embeddings": 16,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 2,
            "use_cache": False,
        },
    ),
    "bert": Architecture("BertForSequenceClassification", classified, ENCODER),
    "deberta_v2": Architecture(
        "DebertaV2ForSequenceClassification",
        classified,
        {
            **ENCODER,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "problem_type": "single_label_classification",  # else it looks at the labels to find out
        },
    ),
    "distilbert": Architecture(
        "DistilBertForSequenceClassification",
        classified,
        {
            "vocab_size": WORDS,
            "dim": 8,
            "n_layers": 3,
            "n_heads": 2,
            "hidden_dim": 12,
            "max_position_embeddings": 16,
            "num_labels": CLASSES,
        },
    ),
    "electra": Architecture("ElectraForSequenceClassification", classified, {**ENCODER, "embedding_size": 6}),
    "gemma": Architecture("GemmaForCausalLM", continued, DECODER),
    "gemma2": Architecture("Gemma2ForCausalLM", continued, {**DECODER, "sliding_window": 4}),
    "gpt2": Architecture(
        "GPT2LMHeadModel",
        continued,
        {
            "vocab_size": WORDS,
            "n_embd": 8,
            "n_layer": 3,
            "n_head": 2,
            "n_positions": 16,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "use_cache": False,
        },
    ),
    "gpt_neox": Architecture("GPTNeoXForCausalLM", continued, FEW_HEADS),
    "llama": Architecture("LlamaForCausalLM", continued, DECODER),
    "mamba": Architecture(
        "MambaForCausalLM",
        continued,
        {"vocab_size": WORDS, "hidden_size": 8, "state_size": 4, "num_hidden_layers": 3, "use_cache": False},
    ),
    "mistral": Architecture("MistralForCausalLM", continued, {**DECODER, "sliding_window": 4}),
    "mixtral": Architecture(
        "MixtralForCausalLM",
        continued,
        {**DECODER, "num_local_experts": 3},
        dtypes=(torch.float32,),  # its experts multiply in a kernel that has no float64
    ),
    "opt": Architecture(
        "OPTForCausalLM",
        continued,
        {**FEW_HEADS, "ffn_dim": 12, "word_embed_proj_dim": 8},
    ),
    "phi": Architecture("PhiForCausalLM", continued, FEW_HEADS),
    "qwen2": Architecture("Qwen2ForCausalLM", continued, DECODER),
    "qwen3": Architecture("Qwen3ForCausalLM", continued, DECODER),
    "roberta": Architecture("RobertaForSequenceClassification", classified, {**ENCODER, "pad_token_id": 0}),
    "t5": Architecture(
        "T5ForConditionalGeneration",
        translated,
        {
            "vocab_size": WORDS,
            "d_model": 8,
            "d_kv": 4,
            "d_ff": 12,
            "num_layers": 3,
            "num_heads": 2,
            "decoder_start_token_id": 0,
            "use_cache": False,
        },
    ),
}
