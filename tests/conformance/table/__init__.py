"""The table: every case that any server must pass, then those of the extensions."""

from tests.conformance.table import bare, calls, control, inference, refusals, regions, settings

CASES = (*calls.CASES, *inference.CASES, *refusals.CASES, *bare.CASES, *settings.CASES, *control.CASES, *regions.CASES)
