"""Reproduce the paper: its numbers, and the runs that make them again."""
