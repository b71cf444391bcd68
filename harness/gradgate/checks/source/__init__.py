"""What checks find in a trainer's source without running it: values followed, places named, faults of one kind each."""
