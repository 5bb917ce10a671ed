"""`python -m app.cli` is `testdb`."""

from app.cli import main

main(prog_name="testdb")
