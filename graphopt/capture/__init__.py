"""PyTorch model -> Graph, and back.

    graph = capture(model, (x,))          # torch.export, canonicalised and functionalised
    module = graph.to_module()            # a trainable nn.Module again

| file | idea |
|---|---|
| frontend.py | `capture`: the steps in order |
| examples.py, dynamic.py | what to run the model on; which sizes may vary |
| export.py | calling torch.export, and its errors in our words |
| importer.py, context.py, tables/ | fx nodes to canonical nodes, one table file per family |
| functionalise.py, control.py, opaque.py | in-place ops and aliases; sub-graphs; everything else |
| states.py, names.py, dims.py, structure.py | parameters; provenance; symbolic sizes; pytrees |
| module.py, fx_emitter.py | `to_module`: a graph as a trainable module |
| source.py, source_emitter.py | `to_python`: a graph as readable source |
"""

from __future__ import annotations

from graphopt.capture.frontend import capture

__all__ = ["capture"]
