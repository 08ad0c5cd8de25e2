"""Passes and what runs them: `Pass`, `PassManager`, options, the registry, and the checks of numbers.

`graphopt.pipeline.passes` says what a pass is, `graphopt.pipeline.manager` runs a list of them, and
`graphopt.pipeline.registry` finds them by name.
"""
