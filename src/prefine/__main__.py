"""`python -m prefine`."""

from prefine.cli import main

main()
