"""Scaled dot-product attention."""

from __future__ import annotations

from typing import Any

from graphopt.backends.reference.emitter import Emitter, Lowering, Site

__all__ = ["LOWERINGS"]


def _attention(emit: Emitter, site: Site) -> object:
    options: dict[str, Any] = {"attn_mask": site[3]}
    if site["dropout_p"]:
        options["dropout_p"] = emit.call("helper.dropout_probability", site["dropout_p"], emit.training("follow"))
    if site["causal"]:
        options["is_causal"] = True
    if site["scale"] is not None:
        options["scale"] = site["scale"]
    if site["grouped"]:
        options["enable_gqa"] = True
    return emit.call("F.scaled_dot_product_attention", site[0], site[1], site[2], **options)


LOWERINGS: dict[str, Lowering] = {"scaled_dot_product_attention": _attention}
