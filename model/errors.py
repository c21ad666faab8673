"""What a user can mend about a run."""


class RunError(Exception):
    """A user's mistake about a run: one line that says what does not fit."""
