"""The paper's claims, each a command: measurements over seeds, a figure and a verdict."""
