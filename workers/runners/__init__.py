"""The code that runs jobs, one module for each kind of job."""
