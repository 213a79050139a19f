"""How long the blocks of a model are trained."""

PUBLISHED_ITERATIONS = 3000
"""Of each block, GLF-Q."""
