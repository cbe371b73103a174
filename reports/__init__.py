"""What is shown: collect -> statistics -> figures -> page. Reads files and studies, never torch."""
