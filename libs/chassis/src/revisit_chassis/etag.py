"""Concurrent edits: `ETag` on what can be edited, `If-Match` on the edit."""

from typing import Annotated

from fastapi import Header

from revisit_chassis.problem import Problem

IfMatch = Annotated[str | None, Header(alias="If-Match")]


def etag(version: int) -> str:
    """Gives the entity tag of a version.

    >>> etag(3)
    '"3"'
    """
    return f'"{version}"'


def check_if_match(if_match: str | None, version: int | None) -> None:
    """Refuses an edit of a version that is no longer the present one.

    Args:
        if_match: Value of the header; none lets everything through.
        version: The present one; None when there is no such thing, which nothing matches, not even `*`.

    Raises:
        Problem: 412.
    """
    if if_match is None:
        return
    tags = {tag.strip().removeprefix("W/") for tag in if_match.split(",")}
    if version is None or not tags & {"*", etag(version)}:
        raise Problem(
            412, "changed-meanwhile", "It was changed by somebody else; read it again first."
        )
