"""Text into packed batches of bytes or tokens. `hnet.data.stream` is the way in; `README.md` draws the path."""
