"""The leaderboard: every method on every task, with the same search of settings."""
