"""Rewards, one a sequence: a reward model, a verifiable reward, or a frozen reference."""
