"""From images on disk or on the network to packed arrays: the stages `fetch` and `split`, and their reader."""
