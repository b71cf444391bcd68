"""Two checkouts against each other: fetched, loaded beside each other, counted, timed, and judged."""
