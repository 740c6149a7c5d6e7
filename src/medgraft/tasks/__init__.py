"""What a network is trained for: classify, regress, segment."""
