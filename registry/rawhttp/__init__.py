"""What raw ASGI handlers of several rooms share; knows no room, no model and no Django."""
