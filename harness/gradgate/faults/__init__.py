"""Planted faults: real faults put into a copy of a trainer's source, to see which checks notice, and what survives."""
