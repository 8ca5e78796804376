"""Every known way to cheat, played as processes against real nodes: who loses how much (docs/design/adversary.md)."""
