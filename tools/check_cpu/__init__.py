"""Is the CPU backend right, clean under sanitizers, and near the peak? `python -m tools.check_cpu --help`.

Rooms, from the bottom: `numbers` (data for states), `convnets` and `encoders` (random networks that look like real ones),
`networks` (all kinds by name and seed), `trial` (one network, compiled and compared), `worker` and `pool` (trials in processes
that may crash), `summary`, `per_layer` (time and fraction of peak of each step), `__main__` (the command).
"""
