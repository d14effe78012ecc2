"""What other rooms may react to, without this room knowing them."""

from django.dispatch import Signal

# Sent after a job's model became a version in the registry, with `model_name` and `version`.
model_registered = Signal()
