"""Placeholder until the merge."""

from typing import Any


def describe_source(datamodule: object) -> dict:
    return {}


def read_again(source: dict) -> Any:
    return {}
