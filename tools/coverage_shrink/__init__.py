"""Every axis group of every model of the zoo cut by half, and Torch-Pruning on the same models.

    python -m tools.coverage --shrink                       # all models, writes docs/coverage-shrink.md
    python -m tools.coverage --shrink --family timm -k vit  # some, prints the table
    python -m tools.coverage --shrink --only ours --again failed

`ours` and `peer` examine one model in a process of its own (tools.zoo.pool), `recipe` is what Torch-Pruning's own
examples do by hand for attention, `page` the document, `command` the command line.
"""
