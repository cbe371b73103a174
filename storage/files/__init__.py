"""The files of a study: paths, tensors, data sets, teacher cache, checkpoints, records."""
