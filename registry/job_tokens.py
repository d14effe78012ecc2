"""Passwords of the jobs' MLflow users.

A slow hash protects what people choose against guessing. Nobody guesses 256 random bits, so that
nothing is lost when MLflow hashes these with one round: scrypt takes it 110 ms of a processor, once
when the user is made and once more at the script's first call.
"""

import secrets

PREFIX = "job-token-"
RANDOM_BYTES = 32
# For MLflow's process, which cannot import this module.
PREFIX_VARIABLE = "MLOPS_JOB_TOKEN_PREFIX"


def new_token() -> str:
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
