"""`Finding`: what an audit found suspicious, and what a person is asked to decide on."""

from dataclasses import dataclass

# What was found, in a line; the review page has each in its own language.
NEVER_SAW = "models that never saw it: {sure:.0f} % {guess}, {less:.0f} % {given}"
SAME, ALMOST = "the very same picture is in {part}", "almost the same picture is in {part}"
TINY, LONG = "tiny: {width}×{height} px", "very long: {width}×{height} px"
BLANK = "blank: one colour all over"
DARK, BRIGHT = "very dark: 99 % below {of:.0f} of 255", "very bright: 95 % above {of:.0f} of 255"


@dataclass(frozen=True)
class Finding:
    """A picture that something may be wrong with."""

    kind: str
    """``label`` (perhaps a wrong one), ``duplicate`` or ``picture`` (perhaps a bad one)."""
    id: str
    """Of the picture, as `eyebright.data.decisions.table_ids` has it."""
    given: str
    """The class that the data give it."""
    suggested: str | None
    """The class that it may belong to instead, where there is one."""
    score: float
    """How sure the audit is, from 0 to 1."""
    note: str
    """What was found, in a line."""
    other: str | None = None
    """Of a duplicate: the id of its twin."""
