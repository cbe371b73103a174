"""Reading a study into one object."""
