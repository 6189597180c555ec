"""Teachers and student. Every model maps (inputs, lengths) to an `Output`."""
