"""Where the manifold helps: ``python -m experiments.crossover CONFIG [--widths ...]``."""

from experiments.analysis.crossover import main
from experiments.command import run_command

if __name__ == "__main__":
    run_command(main)
