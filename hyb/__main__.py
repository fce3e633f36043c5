"""`python -m hyb`."""

from hyb.cli import main

main()
