"""One run from start to finish: its spec, its execution, what it leaves."""
