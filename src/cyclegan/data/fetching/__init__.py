"""From a source to `data/raw`: public sets, downloads, archives, folders."""
