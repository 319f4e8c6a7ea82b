"""The choice of device and precision."""

from __future__ import annotations

import torch

from mtrl.config import ConfigError


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 natively; emulation is hundreds of times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def pick_device(wanted: str) -> str:
    """`cpu` or `cuda`, of what a configuration may say.

    Raises:
        ConfigError: a GPU is asked for, and PyTorch finds none.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        reason = "finds no GPU" if torch.version.cuda else "is built for the CPU only"
        raise ConfigError(f"learner.device is cuda, but this PyTorch {reason}; set it to cpu, or to auto to take a GPU where there is one")
    return wanted


def pick_precision(wanted: str, device: torch.device) -> torch.dtype:
    """The type of the networks' products, of what a configuration may say."""
    if wanted == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return torch.bfloat16 if wanted == "bfloat16" else torch.float32
