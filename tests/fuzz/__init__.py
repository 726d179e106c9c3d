"""Hostile bytes: whatever comes, the server answers with an error of the contract, or rightly, and goes on."""
