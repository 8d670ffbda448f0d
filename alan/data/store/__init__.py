"""The frame store: one HDF5 file with all frames and labels of an archive."""
