"""Time the parts of training for `bench`."""
