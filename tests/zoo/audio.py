"""Architectures that hear."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.zoo.architecture import Architecture
from tests.zoo.text import WORDS

FRAMES = 12


def waves(batch: int) -> dict[str, Tensor]:
    """Waves, every second one shorter than the rest. The loss for letters depends on how many there are."""
    mask = torch.ones(batch, 160, dtype=torch.long)
    mask[1::2, 120:] = 0
    return {"input_values": torch.randn(batch, 160), "attention_mask": mask}


def spectra(batch: int) -> dict[str, Tensor]:
    """Spectra over time with a sentence each."""
    return {
        "input_features": torch.randn(batch, 5, FRAMES),
        "labels": torch.randint(3, WORDS, (batch, 6)),
    }


MODELS = {
    "wav2vec2": Architecture(
        "Wav2Vec2ForCTC",
        waves,
        {
            "vocab_size": WORDS,
            "hidden_size": 8,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 12,
            "conv_dim": [8, 8],
            "conv_stride": [5, 2],
            "conv_kernel": [5, 3],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "apply_spec_augment": False,  # draws its masks with NumPy, which no graph does
            "layerdrop": 0.0,  # skips a layer when a random number is small
        },
    ),
    "whisper": Architecture(
        "WhisperForConditionalGeneration",
        spectra,
        {
            "vocab_size": WORDS,
            "num_mel_bins": 5,
            "d_model": 8,
            "encoder_layers": 3,
            "decoder_layers": 3,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 12,
            "decoder_ffn_dim": 12,
            "max_source_positions": FRAMES // 2,
            "max_target_positions": 16,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "use_cache": False,
        },
    ),
}
