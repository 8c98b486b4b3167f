"""Waiting for a page, where its content security policy forbids it to evaluate strings."""

from typing import Any


def until(page: Any, expression: str, seconds: float = 10) -> None:
    """Wait until an expression of JavaScript is true.

    `page.wait_for_function` would evaluate it within the page when it does not hold at once,
    which our pages forbid; here each look is the debugger's own.
    """
    for _ in range(int(seconds / 0.05)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"not true within {seconds} s: {expression}")
