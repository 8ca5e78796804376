"""Compiled contracts, shipped so that nobody needs a Solidity compiler to run a node."""
