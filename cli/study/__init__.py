"""Compute and write what the commands that study a trained network show."""
