"""The data: stages `fetch` and `split`, from images to packed arrays, and the reader of these arrays."""
