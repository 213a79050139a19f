"""Measure a model beside the other engines that could run it; the command is ``fxquant bench``."""
