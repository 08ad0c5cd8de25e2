"""Training of the two small networks, as `tools.bench_quality.training` does it.

python -m tools.bench_shrink.training build/bench_shrink/checkpoints
"""

from __future__ import annotations

from tools.bench_quality.training import main

if __name__ == "__main__":
    main()
