"""The frozen-feature cache: HDF5 that knows where it came from."""
