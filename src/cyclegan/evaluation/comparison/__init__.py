"""Which of two metrics is better, and by how much.

A package of its own: the run key holds the files directly in `evaluation`, and a comparison shapes no training.
"""
