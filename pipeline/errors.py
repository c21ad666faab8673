"""What a user can mend about images and datasets."""


class DataError(Exception):
    """Something wrong with the data that its user can mend: one line that says what, where and how."""
