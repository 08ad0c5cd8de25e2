"""Tools for developers: coverage, benchmarks, fuzzers, pass runner. Run them with `python -m tools.NAME`."""
