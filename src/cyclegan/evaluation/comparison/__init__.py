"""Which of two metrics is better, and by how much."""
