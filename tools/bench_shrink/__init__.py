"""Quality against measured latency: our shrink passes, Torch-Pruning and plain magnitude on real tasks.

    python -m tools.bench_shrink --help

Rooms, from the bottom: `packages` (what has to be installed), `data/` (images, texts, tones), `networks` and
`training` (the two nets that are trained here), `tasks/` (a trained network, its data and its scores), `methods/`
(how it is made smaller), `runs` (one of them at one level with one seed, and its JSON record), `latency` (interleaved
timing), `statistics` (paired comparisons), `table` and `plot` (the page), `__main__` (the command).
"""
