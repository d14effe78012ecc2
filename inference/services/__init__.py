"""What may be done to model servers, by who does it: the only writers of their state.

`pool` for the web process, `starting` for workers, `watching` for the supervisor, `rows` for all of
them; `policy` and `aliases` for what users decide.
"""
