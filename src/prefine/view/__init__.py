"""The local web app that shows runs: their pages, and what is read for them."""
