"""Quality against sparsity and measured latency: our sparsify passes, torch.nn.utils.prune and NNCF on real tasks.

    python -m tools.bench_sparsity --help

What it runs on is in `tools.bench_quality`. Rooms, from the bottom: `subject` (a task's graph, its layers that become sparse,
its lessons), `methods/` (how they become sparse, and how the network is trained afterwards), `runs` (one method at one ratio
with one seed), `deploy` (files for timing, int8), `latency` (interleaved timing), `points` and `targets` (what was reached),
`table` and `plot` (the page), `__main__` (the command).
"""
