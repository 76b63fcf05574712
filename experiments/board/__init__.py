"""The field's table: every method on every task, with settings that are searched alike."""
