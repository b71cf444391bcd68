"""The static scanner: source in, findings out. Standard library only; torch is never imported to scan."""
