"""The packed images, and the batches of a training."""
