"""Tiny transformers with random configurations, one per family."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Family = tuple[Callable[[], nn.Module], Callable[[int, int], dict[str, Any]], tuple[int, ...], int]
_SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
_WORDS: dict[str, Any] = {**_SIZES, "vocab_size": 100, "max_position_embeddings": 64}
_TOKENS = (12,)


def _make(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        library = importlib.import_module("transformers")
        settings = getattr(library, config)(**options)
        result: nn.Module = getattr(library, model)(settings)
        return result

    return build


def _text(batch: int, length: int) -> dict[str, Any]:
    return {
        "input_ids": torch.randint(3, 100, (batch, length)),
        "attention_mask": torch.ones(batch, length, dtype=torch.long),
    }


def _photo(batch: int, size: int) -> dict[str, Any]:
    return {"pixel_values": torch.randn(batch, 3, size, size)}


def _sound(batch: int, _: int) -> dict[str, Any]:
    return {"input_features": torch.randn(batch, 16, 64)}


def _text_and_photo(batch: int, size: int) -> dict[str, Any]:
    return {**_text(batch, size // 4), **_photo(batch, size)}


def _clip() -> nn.Module:
    library = importlib.import_module("transformers")
    text = {**_WORDS, "eos_token_id": 2, "projection_dim": 24}
    photo = {**_SIZES, "image_size": 32, "patch_size": 8, "projection_dim": 24}
    config = library.CLIPConfig(text_config=text, vision_config=photo, projection_dim=24)
    model: nn.Module = library.CLIPModel(config)
    return model


def _detr() -> nn.Module:
    library = importlib.import_module("transformers")
    backbone = library.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1],
        layer_type="basic", out_features=["stage4"],
    )  # fmt: skip
    config = library.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, num_queries=10, num_labels=7,
    )  # fmt: skip
    model: nn.Module = library.DetrForObjectDetection(config)
    return model


def _whisper() -> nn.Module:
    library = importlib.import_module("transformers")
    config = library.WhisperConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64,
        num_mel_bins=16, max_source_positions=32, decoder_layers=1, decoder_attention_heads=4,
        vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    encoder: nn.Module = library.WhisperModel(config).get_encoder()
    return encoder


FAMILIES: dict[str, Family] = {
    "bert": (_make("BertModel", "BertConfig", **_WORDS), _text, _TOKENS, 5),
    "gpt2": (
        _make(
            "GPT2LMHeadModel", "GPT2Config", vocab_size=100, n_positions=64, n_embd=32, n_layer=2,
            n_head=4, use_cache=False,
        ),
        _text, _TOKENS, 5,
    ),
    "llama": (
        _make(
            "LlamaForCausalLM", "LlamaConfig", **_WORDS, num_key_value_heads=2, use_cache=False
        ),
        _text, _TOKENS, 5,
    ),
    "t5_encoder": (
        _make(
            "T5EncoderModel", "T5Config", vocab_size=100, d_model=32, d_kv=8, d_ff=64,
            num_layers=2, num_heads=4,
        ),
        _text, _TOKENS, 5,
    ),
    "clip": (_clip, _text_and_photo, (32,), 0),
    "whisper_encoder": (
        _whisper, _sound, (64,), 0,
    ),
    "segformer": (
        _make(
            "SegformerForSemanticSegmentation", "SegformerConfig", hidden_sizes=[8, 16, 24, 32],
            depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=32,
            num_labels=7,
        ),
        _photo, (64,), 32,
    ),
    "detr": (_detr, _photo, (64,), 32),
}  # fmt: skip
