"""Named recipes: a family is a function, a variant a row of differences."""

from onestage.zoo.table import ANY_BACKBONE, ZOO, Entry, list_models, recipe

__all__ = ["ANY_BACKBONE", "ZOO", "Entry", "list_models", "recipe"]
