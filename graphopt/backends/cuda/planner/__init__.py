"""From a graph at given sizes to a plan."""
