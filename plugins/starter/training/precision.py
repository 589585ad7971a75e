"""Half precision where the processor has it: training takes little more than half the time then."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast_matrices() -> AbstractContextManager[object]:
    """Matrix products in bfloat16 where that is fast, float32 elsewhere; weights and losses stay in float32."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_fast_bfloat16())
