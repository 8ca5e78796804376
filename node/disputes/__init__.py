"""Playing disputes: from what the chain says to the next move, as accused and as challenger (docs/design/nodes.md)."""

if not __name__.startswith("cupel."):
    raise ImportError(
        f"import cupel.node.disputes: a bare 'import {__name__}' would make a second, unequal set of classes"
    )
