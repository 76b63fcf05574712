"""What the compiler says of a run, for chips that need not be there."""
