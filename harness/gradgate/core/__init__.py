"""The leaf of the library: what a fault, a rule and a verdict are. Standard library only."""
