"""One file a check, the catalogue of all rules, and the runner."""
