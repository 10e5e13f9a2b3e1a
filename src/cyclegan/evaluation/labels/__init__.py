"""Whether translations keep the classes of labeled images."""
