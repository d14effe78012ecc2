"""Forms of a request that other servers' clients send; each is turned into our own and back."""
