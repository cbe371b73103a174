"""The limitations of a study that Retort can detect, one sentence each."""
