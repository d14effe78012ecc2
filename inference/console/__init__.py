"""The console's pages of models: what they show and what they offer; services do what is done."""
