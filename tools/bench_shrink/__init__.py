"""Quality against measured latency: our shrink passes, Torch-Pruning and plain magnitude on real tasks.

    python -m tools.bench_shrink --help

What it runs on is in `tools.bench_quality`. Rooms, from the bottom: `timings` (records of latencies), `methods/` (how a
network is made smaller), `runs` (one of them at one level with one seed), `latency` (interleaved timing), `points`,
`table` and `plot` (the page), `__main__` (the command).
"""
