"""hyb: from a downloaded language model to a private endpoint that an OpenShift namespace can call."""

__version__ = "0.1.0"
