"""What leaves a data set or a prediction as files that other programs read."""
