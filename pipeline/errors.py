"""Define the error for what a user can correct about images and datasets."""


class DataError(Exception):
    """Report a fault in the data that the user can correct: what, where and what to do, in one line."""
