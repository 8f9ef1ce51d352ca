"""stepwise: image generators trained from scratch on the few images you have."""

__version__ = "0.1.0"
