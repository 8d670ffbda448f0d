"""Echo archives: readers, preprocessing, splits, frame store, simulator, loaders."""
