"""The pass library. Import it as `graphopt.passes`, whatever the folder is called in a checkout."""

if __name__ != "graphopt.passes":
    raise ImportError("import this package as graphopt.passes, not as a top-level 'passes'")
