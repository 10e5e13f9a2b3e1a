"""Image files: which files of a folder are images, and how each format is decoded."""
