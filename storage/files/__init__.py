"""Files: paths, artifacts, tensors, data sets, teacher cache, records."""
