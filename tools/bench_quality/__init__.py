"""What the benchmarks of quality share: trained networks with their data, scores and short fine-tuning.

Rooms, from the bottom: `packages` (what has to be installed), `data/` (images, texts, tones), `networks` and
`training` (the two nets that are trained here), `tasks/` (a trained network, its data and its scores), `finetuning`,
`records` (JSON per run), `statistics` and `scores` (paired comparisons), `turns` (interleaved timing).
"""
