"""Everything on disk: the files of a study, the teacher cache, and Optuna studies."""
