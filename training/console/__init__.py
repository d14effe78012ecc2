"""The console's pages of jobs: what they show and what they offer; services do what is done."""
