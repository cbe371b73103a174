"""The stages around the search: preparation, confirmation, and what is written down."""
