"""Latency of the CPU backend beside ONNX Runtime, OpenVINO, torch.compile and eager PyTorch.

    python -m tools.bench_cpu --help

Rooms, from the bottom: `models` (what is measured), `prepare` (files that the arms read), `arms` (how each is run),
`worker` and `pool` (one process per arm, one at a time awake), `rounds` (who runs when), `records` (JSON, statistics),
`table` and `plot` (the page), `__main__` (the command).
"""
