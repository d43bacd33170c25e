"""`python -m edgespec.cli`, for where the script is not on the path."""

from edgespec.cli import main

main()
