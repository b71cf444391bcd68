"""`python -m wmtp` is `wmtp`."""

from wmtp.cli import main

main()
