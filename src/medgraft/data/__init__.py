"""From the store to batches: what is drawn, cut, transformed and joined again."""
