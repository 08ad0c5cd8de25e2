"""Training of the two small networks: SGD with momentum and one cycle of the learning rate; the same every time.

python -m tools.bench_quality.training build/bench_shrink/checkpoints
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tools.bench_quality.data.fashion import Images, fashion_m, fashion_mnist
from tools.bench_quality.layout import fast_layout
from tools.bench_quality.networks import small_mobilenet, small_resnet

__all__ = ["NETWORKS", "checkpoint", "hits", "main", "train"]

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Path], dict[str, Images]], int, float]] = {
    "resnet": (small_resnet, fashion_m, 4, 0.1),
    "mobilenet": (small_mobilenet, fashion_mnist, 4, 0.1),
}
"""Per network: how it is made, its data, epochs, and the highest learning rate."""

_BATCH = 128


def train(module: nn.Module, images: Images, epochs: int, rate: float, say: Callable[[str], None] = print) -> None:
    """Train with cross-entropy on pictures that are mirrored half of the time; leaves the module in eval mode."""
    random = numpy.random.default_rng(0)
    steps = len(images) // _BATCH
    optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps * epochs, pct_start=0.25)
    module.train()
    with fast_layout(module):
        for epoch in range(epochs):
            order, began, total = random.permutation(len(images)), time.perf_counter(), 0.0
            for step in range(steps):
                pixels, labels = images.batch(numpy.sort(order[step * _BATCH : (step + 1) * _BATCH]))
                mirrored = torch.from_numpy(random.random(len(labels)) < 0.5)
                pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
                loss = nn.functional.cross_entropy(module(pixels), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach())
            say(f"epoch {epoch + 1} of {epochs}: loss {total / steps:.3f}, {time.perf_counter() - began:.0f} s")
    module.eval()


def hits(module: nn.Module, images: Images) -> numpy.ndarray[tuple[int], numpy.dtype[numpy.bool_]]:
    """For each picture whether the class is right."""
    found: list[torch.Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(images), 250):
            pixels, labels = images.batch(slice(start, start + 250))
            found.append(module(pixels).argmax(1) == labels)
    return torch.cat(found).numpy()


def checkpoint(name: str, folder: Path, images: dict[str, Images] | None = None, say: Callable[[str], None] = print) -> nn.Module:
    """The trained network in eval mode; trained now, on one thread, if `folder` does not hold it yet.

    `images` are by default read with what is in the folder `data` beside `folder`.
    """
    make, data, epochs, rate = NETWORKS[name]
    torch.manual_seed(0)
    module = make()
    file = folder / f"{name}.safetensors"
    if not file.exists():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        images = images or data(folder.parent / "data")
        train(module, images["train"], epochs, rate, lambda text: say(f"training {name}: {text}"))
        say(f"{name}: {hits(module, images['validation']).mean():.4f} of the validation pictures are right")
        folder.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".partial")
        save_file({key: value.contiguous() for key, value in module.state_dict().items()}, fresh)
        fresh.replace(file)
        torch.set_num_threads(threads)
    module.load_state_dict(load_file(file))
    return module.eval()


def main() -> None:
    """Train the networks whose checkpoints are not in the folder that the command line names."""
    for each in NETWORKS:
        checkpoint(each, Path(sys.argv[1]), say=lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
