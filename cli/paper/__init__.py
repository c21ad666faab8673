"""The paper's numbers, and the runs that make them again."""
