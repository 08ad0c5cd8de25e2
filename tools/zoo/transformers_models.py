"""transformers architectures with tiny configurations: two layers, 64 wide."""

from __future__ import annotations

from typing import Any

import torch
import transformers

__all__ = ["build_transformers"]

_CLASSES = {
    "albert": "AlbertForMaskedLM",
    "bart": "BartForConditionalGeneration",
    "beit": "BeitForImageClassification",
    "bert": "BertForMaskedLM",
    "big_bird": "BigBirdForMaskedLM",
    "bloom": "BloomForCausalLM",
    "clip": "CLIPModel",
    "convnext": "ConvNextForImageClassification",
    "deberta": "DebertaForMaskedLM",
    "deberta_v2": "DebertaV2ForMaskedLM",
    "deit": "DeiTForImageClassification",
    "detr": "DetrForObjectDetection",
    "dinov2": "Dinov2ForImageClassification",
    "distilbert": "DistilBertForMaskedLM",
    "dpt": "DPTForDepthEstimation",
    "electra": "ElectraForMaskedLM",
    "falcon": "FalconForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gpt_neo": "GPTNeoForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gptj": "GPTJForCausalLM",
    "hubert": "HubertForCTC",
    "llama": "LlamaForCausalLM",
    "longformer": "LongformerForMaskedLM",
    "m2m_100": "M2M100ForConditionalGeneration",
    "mamba": "MambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "mobilebert": "MobileBertForMaskedLM",
    "mobilenet_v2": "MobileNetV2ForImageClassification",
    "mobilevit": "MobileViTForImageClassification",
    "modernbert": "ModernBertForMaskedLM",
    "mpnet": "MPNetForMaskedLM",
    "opt": "OPTForCausalLM",
    "pegasus": "PegasusForConditionalGeneration",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "resnet": "ResNetForImageClassification",
    "roberta": "RobertaForMaskedLM",
    "rwkv": "RwkvForCausalLM",
    "sam": "SamModel",
    "segformer": "SegformerForSemanticSegmentation",
    "siglip": "SiglipModel",
    "swin": "SwinForImageClassification",
    "t5": "T5ForConditionalGeneration",
    "vit": "ViTForImageClassification",
    "wav2vec2": "Wav2Vec2ForCTC",
    "whisper": "WhisperForConditionalGeneration",
    "xlm_roberta": "XLMRobertaForMaskedLM",
    "xlnet": "XLNetLMHeadModel",
    "yolos": "YolosForObjectDetection",
}

_SMALL: dict[str, Any] = {
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embedding_size": 64, "word_embed_proj_dim": 64,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2, "num_layers": 2,
    "num_decoder_layers": 2, "encoder_num_hidden_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "d_kv": 16,
    "intermediate_size": 128, "ffn_dim": 128, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "n_inner": 128, "d_inner": 128, "d_ff": 128,
    "hidden_dim": 128,
    "vocab_size": 128, "max_position_embeddings": 128, "n_positions": 128, "image_size": 64, "use_cache": False,
}  # fmt: skip

_SPECIAL: dict[str, dict[str, Any]] = {
    "beit": {"image_size": 64, "patch_size": 16},
    "big_bird": {"attention_type": "original_full"},
    "bloom": {"hidden_size": 64, "n_head": 4, "n_layer": 2},
    "convnext": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]},
    "detr": {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 10},
    "dinov2": {"image_size": 56, "patch_size": 14},
    "dpt": {"image_size": 64, "patch_size": 16, "is_hybrid": False, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 24, 32, 48], "fusion_hidden_size": 32},
    "gemma3": {"layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "hidden_size": 64, "num_heads": 4, "window_size": 16},
    "gptj": {"rotary_dim": 8, "n_embd": 64, "n_layer": 2, "n_head": 4},
    "hubert": {"conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 4), "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "longformer": {"attention_window": [8, 8], "max_position_embeddings": 130},
    "mamba": {"hidden_size": 64, "state_size": 8, "num_hidden_layers": 2},
    "mamba2": {"hidden_size": 64, "num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 2, "chunk_size": 8, "num_hidden_layers": 2},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "hidden_size": 64, "num_attention_heads": 4},
    "mobilenet_v2": {"image_size": 64},
    "mobilevit": {"hidden_sizes": [48, 64, 80], "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 128], "image_size": 64},
    "modernbert": {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "phi3": {"pad_token_id": 0},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "layer_type": "basic"},
    "rwkv": {"hidden_size": 64, "attention_hidden_size": 64, "num_hidden_layers": 2, "context_length": 64},
    "segformer": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 32},
    "swin": {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4, "image_size": 64, "patch_size": 4},
    "wav2vec2": {"conv_dim": (32, 32, 32), "conv_stride": (5, 4, 4), "conv_kernel": (10, 8, 4), "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4},
    "whisper": {"num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "suppress_tokens": None, "begin_suppress_tokens": None},
    "yolos": {"image_size": [64, 64], "patch_size": 16, "num_detection_tokens": 10},
}  # fmt: skip

_NO_GENERIC = frozenset(("convnext", "detr", "resnet", "segformer", "swin"))
"""Architectures with stages, where one width or depth for all makes no sense."""

_DUAL = {
    "clip": ("CLIPTextConfig", "CLIPVisionConfig"),
    "siglip": ("SiglipTextConfig", "SiglipVisionConfig"),
}

_IMAGE = frozenset(
    ("beit", "convnext", "deit", "detr", "dinov2", "dpt", "mobilenet_v2", "mobilevit", "resnet", "segformer", "swin", "vit", "yolos")
)
_AUDIO = frozenset(("hubert", "wav2vec2"))
_ENCODER_DECODER = frozenset(("bart", "m2m_100", "pegasus", "t5"))


def build_transformers(name: str) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Model, positional inputs and keyword inputs."""
    model_class = getattr(transformers, _CLASSES[name])
    config = _config(name, model_class.config_class)
    module = model_class(config)
    return module, (), _inputs(name)


def _small_options(config_class: Any, name: str) -> dict[str, Any]:
    known = set(vars(config_class())) | set(getattr(config_class, "attribute_map", {}))
    generic = {} if name in _NO_GENERIC else {key: value for key, value in _SMALL.items() if key in known}
    return generic | _SPECIAL.get(name, {})


def _config(name: str, config_class: Any) -> Any:
    if name in _DUAL:
        text, vision = (getattr(transformers, part) for part in _DUAL[name])
        text_options = _small_options(text, "") | {"projection_dim": 32, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
        vision_options = _small_options(vision, "") | {"patch_size": 16, "projection_dim": 32}
        return config_class(text_config=text_options, vision_config=vision_options)
    if name == "sam":
        vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16, "output_channels": 32, "mlp_dim": 64, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 16}  # fmt: skip
        prompt = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4, "image_embedding_size": 4}
        mask = {"hidden_size": 32, "mlp_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
        return config_class(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask)
    options = _small_options(config_class, name)
    if name == "detr":
        backbone = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1], "layer_type": "basic"}
        options["backbone_config"] = transformers.ResNetConfig(**backbone, out_features=["stage4"])
        options |= {"backbone": None, "use_timm_backbone": False, "use_pretrained_backbone": False}
    return config_class(**options)


def _inputs(name: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 100, (1, 16), generator=generator)
    mask = torch.ones_like(tokens)
    if name in _IMAGE:
        side = {"dinov2": 56}.get(name, 64)
        return {"pixel_values": torch.randn(1, 3, side, side, generator=generator)}
    if name in _DUAL:
        image = torch.randn(1, 3, 64, 64, generator=generator)
        tokens[:, -1] = 2
        return {"input_ids": tokens, "pixel_values": image, **({"attention_mask": mask} if name == "clip" else {})}
    if name == "sam":
        points = torch.rand(1, 1, 2, 2, generator=generator) * 64
        return {"pixel_values": torch.randn(1, 3, 64, 64, generator=generator), "input_points": points}
    if name in _AUDIO:
        return {"input_values": torch.randn(1, 1600, generator=generator)}
    if name == "whisper":
        features = torch.randn(1, 16, 64, generator=generator)
        return {"input_features": features, "decoder_input_ids": tokens[:, :8]}
    if name in _ENCODER_DECODER:
        return {"input_ids": tokens, "attention_mask": mask, "decoder_input_ids": tokens[:, :8]}
    if name in ("mamba", "mamba2", "rwkv"):
        return {"input_ids": tokens}
    return {"input_ids": tokens, "attention_mask": mask}
