"""Results as text and JSON: a model first, then pure functions of it."""
