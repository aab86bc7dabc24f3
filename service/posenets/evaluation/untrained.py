"""A model repository -> the networks of the table that have no weights in it."""

from collections.abc import Iterable

from posegate.catalog import Model
from posenets.counting import Count, count_all


def not_trained(models: Iterable[Model]) -> list[Count]:
    """What is known of each network of the table that no card is of, in the table's order.

    A card is of the network with its parameters at its input; its name is free.
    """
    cards = [model.card for model in models]
    known = {(card.parameters, f"{card.input.height}x{card.input.width}") for card in cards}
    return [count for count in count_all() if (count.params, count.input) not in known]
