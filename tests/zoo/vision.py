"""Architectures that see pictures, some with words beside them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.zoo.architecture import Architecture
from tests.zoo.text import CLASSES, WORDS, tokens

TRANSFORMER = {
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "image_size": 8,
    "patch_size": 4,
}
BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8],
    "depths": [1, 1],
    "layer_type": "basic",
    "out_features": ["stage2"],
}


def pictures(batch: int, size: int = 8) -> dict[str, Tensor]:
    """Pictures of three channels."""
    return {"pixel_values": torch.randn(batch, 3, size, size)}


def classified(batch: int, size: int = 8) -> dict[str, Tensor]:
    """Pictures with a class each."""
    return {**pictures(batch, size), "labels": torch.randint(CLASSES, (batch,))}


def larger(batch: int) -> dict[str, Tensor]:
    """Pictures that can be halved often, with a class each."""
    return classified(batch, 32)


def painted(batch: int) -> dict[str, Tensor]:
    """Pictures with a class for every pixel."""
    return {**pictures(batch, 32), "labels": torch.randint(CLASSES, (batch, 32, 32))}


def described(batch: int) -> dict[str, Any]:
    """Pictures with a sentence each."""
    return {**pictures(batch), **tokens(batch), "return_loss": True}


def unlabeled(batch: int) -> dict[str, Any]:
    """Pictures alone: the loss of a detector matches what it found with what is there outside of torch."""
    return pictures(batch, 32)


MODELS = {
    "clip": Architecture(
        "CLIPModel",
        described,
        {
            "projection_dim": 6,
            "text_config": {
                "vocab_size": WORDS,
                "hidden_size": 8,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "intermediate_size": 12,
                "max_position_embeddings": 16,
                "bos_token_id": 1,
                "eos_token_id": WORDS - 1,
            },
            "vision_config": TRANSFORMER,
        },
    ),
    "convnext": Architecture(
        "ConvNextForImageClassification",
        larger,
        {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1], "num_labels": CLASSES},
    ),
    "detr": Architecture(
        "DetrForObjectDetection",
        unlabeled,
        {
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone_config": BACKBONE,
            "d_model": 8,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 12,
            "decoder_ffn_dim": 12,
            "num_queries": 5,
            "num_labels": CLASSES,
        },
    ),
    "resnet": Architecture(
        "ResNetForImageClassification",
        larger,
        {
            "embedding_size": 4,
            "hidden_sizes": [4, 6, 8],
            "depths": [1, 1, 1],
            "layer_type": "basic",
            "num_labels": CLASSES,
        },
    ),
    "segformer": Architecture(
        "SegformerForSemanticSegmentation",
        painted,
        {
            "num_encoder_blocks": 3,
            "depths": [1, 1, 1],
            "sr_ratios": [2, 1, 1],
            "hidden_sizes": [4, 6, 8],
            "patch_sizes": [7, 3, 3],
            "strides": [4, 2, 2],
            "num_attention_heads": [1, 2, 2],
            "mlp_ratios": [2, 2, 2],
            "decoder_hidden_size": 6,
            "num_labels": CLASSES,
        },
    ),
    "swin": Architecture(
        "SwinForImageClassification",
        larger,
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 4,
            "depths": [1, 1, 2],
            "num_heads": [1, 2, 2],
            "window_size": 2,
            "num_labels": CLASSES,
        },
    ),
    "vit": Architecture("ViTForImageClassification", classified, {**TRANSFORMER, "num_labels": CLASSES}),
}
