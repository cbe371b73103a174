"""The commands doctor, export, reproduce and verify."""
