"""Bring images from public sets, downloads, archives or folders to `data/raw`."""
