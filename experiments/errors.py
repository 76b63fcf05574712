"""The errors that end a command: a user's mistake, in one line, and a request to stop."""


class UserError(Exception):
    """A mistake in the user's input, described in one line."""


class Unreadable(UserError):
    """A file cannot be read in the expected format."""


class Diverged(UserError):
    """The loss of a run is no longer finite."""


class Stopped(Exception):
    """A run was asked to stop and has saved a checkpoint."""


def in_one_line(error: BaseException) -> str:
    """Returns an error's message in one line, or its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__
