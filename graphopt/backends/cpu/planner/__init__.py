"""From a graph to a plan: groups, layouts, then one kernel after the other with the memory between them."""
