"""`python -m prefine`."""

from prefine.cli.app import main

main()
