"""Cheats within a dispute, before a court whose docket holds one claim: how each side may lie, dawdle and pester."""
