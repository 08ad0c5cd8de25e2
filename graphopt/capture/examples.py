"""Example inputs: what users may give, and where to find them when they give none.

Given: a tuple of positional inputs, one tensor, or a dict by parameter name. An entry of a dict may be a
shape, `(1, 3, 32, 32)`, or a shape and a dtype, `((1, 16), torch.int64)`; a tensor of that shape is made.

Conventions, in this order, batch size 1 where nothing else is said:

1. Lightning: `model.example_input_array`
2. transformers: `model.main_input_name`, `model.dummy_inputs` and the sizes in `model.config`
3. timm: `model.pretrained_cfg["input_size"]`, then `model.default_cfg`
4. torchvision: by the model's file; 224 x 224 images unless the model says otherwise
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.errors import ExampleInputError

__all__ = ["Call", "Examples", "example_call"]

Examples: TypeAlias = "torch.Tensor | Sequence[object] | Mapping[str, object] | None"
"""What `capture(example_inputs=...)` accepts."""

Call: TypeAlias = "tuple[tuple[object, ...], dict[str, object]]"
"""Positional and keyword arguments of one call."""


def example_call(model: nn.Module, given: Examples, kwargs: Mapping[str, object] | None = None) -> Call:
    """Arguments with which to run a model once; each tensor among them is an object of its own.

    Raises:
        ExampleInputError: none are given and no convention applies, an entry is neither tensor nor shape, or a
            tensor has no ordinary dense memory.
    """
    args, keywords = _given_call(model, given, kwargs)
    return cast("Call", _distinct(model, (args, keywords)))


def _distinct(model: nn.Module, call: Call) -> object:
    """The call on tensor objects of its own, and on copies of tensors that occur twice in it or that the model holds.

    torch.export takes two arguments that are one object for one input, and would wire the graph so that
    the second hides the first. It also leaves marks of dynamic sizes on its arguments when it fails, which
    the next capture with the caller's tensors would trip over.
    """
    seen = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}

    def own(leaf: object) -> object:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.is_nested:
            raise ExampleInputError("an example input is a nested tensor, needs one of dense numbers", fix="pass x.to_padded_tensor(0.0)")
        if leaf.layout is not torch.strided or leaf.is_quantized:
            kind = f"quantised ({leaf.dtype})" if leaf.is_quantized else f"of the layout {leaf.layout}"
            raise ExampleInputError(
                f"an example input is {kind}, needs dense numbers", fix=f"pass x.{'dequantize' if leaf.is_quantized else 'to_dense'}()"
            )
        if id(leaf) in seen:
            return leaf.detach().clone()
        seen.add(id(leaf))
        return leaf.detach()

    return pytree.tree_map(own, call)


def _given_call(model: nn.Module, given: Examples, kwargs: Mapping[str, object] | None) -> Call:
    keywords = dict(kwargs or {})
    if given is None and not keywords:
        return _by_convention(model)
    if given is None:
        return (), keywords
    if isinstance(given, torch.Tensor):
        return (given,), keywords
    if isinstance(given, Mapping):
        return _from_mapping(model, given, keywords)
    if isinstance(given, list | tuple):
        return tuple(given), keywords
    raise ExampleInputError(f"example_inputs is a {type(given).__name__}", fix='use a tuple of tensors, or {"x": (1, 3, 32, 32)}')


def _from_mapping(model: nn.Module, given: Mapping[str, object], keywords: dict[str, object]) -> Call:
    """Required leading parameters are passed by position, as people call the model, the others by name."""
    made = {name: _make(model, name, entry) for name, entry in given.items()}
    args: list[object] = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.default is not inspect.Parameter.empty or parameter.name not in made:
            break
        args.append(made.pop(parameter.name))
    return tuple(args), {**made, **keywords}


def _make(model: nn.Module, name: str, entry: object) -> object:
    dtype = _float_dtype(model)
    if isinstance(entry, torch.Tensor) or entry is None:
        return entry
    if isinstance(entry, list | tuple):
        parts = cast("Sequence[object]", entry)
        if len(parts) == 2 and isinstance(parts[0], list | tuple) and isinstance(parts[1], torch.dtype):
            parts, dtype = cast("Sequence[object]", parts[0]), parts[1]
        sizes = [size for size in parts if isinstance(size, int)]
        if len(sizes) == len(parts):
            return _random(tuple(sizes), dtype)
    raise ExampleInputError(
        f"example input '{name}' is {entry!r}, needs a tensor or a shape", fix=f'use {{"{name}": (1, 3, 32, 32)}} or ((1, 16), torch.int64)'
    )


def _random(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Reproducible numbers, so that captures of the same model see the same example."""
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.ones(shape, dtype=dtype)


def _float_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _image(model: nn.Module, *shape: int) -> Call:
    return (_random(shape, _float_dtype(model)).to(_device(model)),), {}


def _by_convention(model: nn.Module) -> Call:
    for convention in (_lightning, _transformers, _timm, _torchvision):
        found = convention(model)
        if found is not None:
            return found
    raise ExampleInputError(
        f"{type(model).__name__} needs example inputs: it has no example_input_array (Lightning), dummy_inputs (transformers) or "
        "pretrained_cfg (timm), and is no torchvision model",
        fix='pass them: capture(model, (torch.randn(1, 3, 224, 224),)) or capture(model, {"x": (1, 3, 224, 224)})',
    )


def _lightning(model: nn.Module) -> Call | None:
    found = getattr(model, "example_input_array", None)
    if isinstance(found, torch.Tensor):
        return (found,), {}
    if isinstance(found, Mapping):
        return (), {str(key): item for key, item in cast("Mapping[str, object]", found).items()}
    return (tuple(cast("Sequence[object]", found)), {}) if isinstance(found, list | tuple) and found else None


def _timm(model: nn.Module) -> Call | None:
    for attribute in ("pretrained_cfg", "default_cfg"):
        config: Any = getattr(model, attribute, None)
        size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
        if isinstance(size, list | tuple) and all(isinstance(part, int) for part in size):
            return _image(model, 1, *(int(part) for part in size))
    return None


def _transformers(model: nn.Module) -> Call | None:
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is None or not isinstance(main, str) or not hasattr(type(model), "dummy_inputs"):
        return None
    parameters = inspect.signature(model.forward).parameters
    inputs: dict[str, object] = {}
    maker = _MAIN_INPUTS.get(main)
    if maker is not None:
        inputs[main] = maker(model, config)
        if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in parameters:
            inputs["decoder_input_ids"] = torch.ones((1, 4), dtype=torch.int64)
    else:
        dummy: Any = getattr(model, "dummy_inputs", None)
        inputs.update(dummy if isinstance(dummy, Mapping) else {})
    if "pixel_values" in parameters and "pixel_values" not in inputs and hasattr(config, "vision_config"):
        inputs["pixel_values"] = _pixels(model, config.vision_config)
    device = _device(model)
    inputs = {name: item.to(device) if isinstance(item, torch.Tensor) else item for name, item in inputs.items() if name in parameters}
    if not inputs:
        return None
    if "use_cache" in parameters:
        inputs["use_cache"] = False  # a cache among the outputs belongs to a generation loop, not to one call
    return (), inputs


def _pixels(model: nn.Module, config: Any) -> torch.Tensor:
    if not hasattr(config, "image_size"):
        config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", 224)
    height, width = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return _random((1, int(getattr(config, "num_channels", 3)), height, width), _float_dtype(model))


def _mel_features(model: nn.Module, config: Any) -> torch.Tensor:
    frames = 2 * int(getattr(config, "max_source_positions", 1500))
    return _random((1, int(getattr(config, "num_mel_bins", 80)), frames), _float_dtype(model))


def _samples(model: nn.Module, config: Any) -> torch.Tensor:
    return _random((1, 16000), _float_dtype(model))


_MAIN_INPUTS: dict[str, Callable[[nn.Module, Any], torch.Tensor]] = {
    "pixel_values": _pixels,
    "input_features": _mel_features,
    "input_values": _samples,
}


def _torchvision(model: nn.Module) -> Call | None:
    module = type(model).__module__
    if not module.startswith("torchvision.models"):
        return None
    if ".detection" in module:
        raise ExampleInputError(
            f"{type(model).__name__} takes a list of images of any size and decides on their contents",
            fix="capture its backbone: capture(model.backbone, (torch.randn(1, 3, 320, 320),))",
        )
    if ".optical_flow" in module:
        image = _random((1, 3, 224, 224), _float_dtype(model)).to(_device(model))
        return (image, image.clone()), {}
    if ".video" in module:
        side = 112 if "resnet" in module else 224
        return _image(model, 1, 3, 16, side, side)
    if module.endswith("inception"):
        return _image(model, 1, 3, 299, 299)
    side = getattr(model, "image_size", 224)
    return _image(model, 1, 3, int(side), int(side)) if isinstance(side, int) else _image(model, 1, 3, 224, 224)
