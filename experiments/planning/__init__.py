"""Plans a run with the compiler, for chips that need not be present."""
