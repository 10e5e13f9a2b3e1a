"""A generator behind HTTP: a picture in, a PNG out, and a page to drop pictures on."""
