"""Run python -m cli: the same as alexnet-dali, in a checkout that is not installed."""

from cli import main

main()
