"""Measure a model beside what else a user could run it on; the command is ``fxquant bench``."""
