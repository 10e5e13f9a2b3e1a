"""Serve a generator over HTTP: image in, PNG out, with a page to drop images on."""
