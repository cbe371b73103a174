"""Training a student, the teacher that it learns from, and evaluating networks."""
