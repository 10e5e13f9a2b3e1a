"""The packed images, and the batches a training sees."""
