"""Define the error for what a user can mend about images and datasets."""


class DataError(Exception):
    """Represent a fault in the data that its user can mend: one line that says what, where and how."""
