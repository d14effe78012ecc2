"""Files of rows that are predicted as a job: what they are, how they come, run, and are fetched."""
