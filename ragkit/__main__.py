"""Run the command line as `python -m ragkit`."""

from ragkit.cli import main

main()
