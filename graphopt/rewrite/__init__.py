"""Rewriting graphs: rules and patterns, the driver that applies them, and the only editor that passes may use.

| file | idea |
|---|---|
| rule.py | `Rule`: where it applies and what it does there |
| pattern.py | `pattern_rule`: a rule from small functions over ops |
| driver.py | `drive`: apply rules until none fires |
| rewriter.py | `Rewriter`: every edit, with a record of what stands for what |
| derived.py | parameters that are computed from parameters, late and in float64 |
"""
