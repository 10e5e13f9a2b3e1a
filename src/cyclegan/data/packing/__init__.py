"""From `data/raw` to `data/split`: decode, split, match pairs, pack."""
