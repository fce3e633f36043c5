"""`python -m hyb.cli`."""

from hyb.cli import main

main()
