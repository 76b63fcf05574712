"""The paper's claims, each a command that gives measurements over seeds, a figure and verdicts."""
