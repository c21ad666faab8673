"""The command line: alexnet-dali."""
