"""Define the error for what a user can correct about a run."""


class RunError(Exception):
    """Report a mistake of the user about a run, in one line that says what is wrong and what to do."""
