"""One short file per experiment; its docstring holds the command and what came out."""
