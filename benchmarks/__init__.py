"""The performance claims of this project, measured: interleaved against the alternative in one run, as ratios."""
