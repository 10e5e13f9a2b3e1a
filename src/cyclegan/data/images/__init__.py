"""Find the image files of a folder, and decode them."""
