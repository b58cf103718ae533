"""What several Dags share: `include` can be imported from everywhere in the project."""

import humanize


def summary(count: int) -> str:
    """Return the number of orders in words."""
    return f"{humanize.intcomma(count)} orders"
