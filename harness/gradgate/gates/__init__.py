"""From numbers to a verdict: statistics, paired timing, exact counters, stored baselines."""
