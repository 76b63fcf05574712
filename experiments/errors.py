"""What ends a command: mistakes of a user's, each in one line, and being asked to stop."""


class UserError(Exception):
    """A mistake in what was asked, as one line."""


class Unreadable(UserError):
    """A file that cannot be read as what it is given as."""


class Diverged(UserError):
    """A run whose loss is no longer finite."""


class Stopped(Exception):
    """A run that was asked to stop and has saved where it was."""


def in_one_line(error: BaseException) -> str:
    """Returns an error's message in one line, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
