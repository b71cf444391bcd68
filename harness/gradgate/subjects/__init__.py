"""What a trainer must offer so that checks can drive it."""
