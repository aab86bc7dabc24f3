"""`python -m posegate`."""

from posegate.cli import app

app()
