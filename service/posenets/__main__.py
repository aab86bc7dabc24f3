"""`python -m posenets`."""

from posenets.cli import app

app()
