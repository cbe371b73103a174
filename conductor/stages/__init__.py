"""The stages around the search: preparation, confirmation, and the records of a study."""
