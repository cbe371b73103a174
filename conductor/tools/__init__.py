"""Commands beside a study: doctor, export, reproduce, verify."""
