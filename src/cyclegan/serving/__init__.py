"""A generator behind HTTP: an image in, a PNG out, and a page to drop images on."""
