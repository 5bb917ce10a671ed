"""Starts the server: `python test_api_server.py --db-path FILE` is `testdb serve --db-path FILE`."""

import sys

from app.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
