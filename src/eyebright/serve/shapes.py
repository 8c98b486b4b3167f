"""What requests bring and answers hold, as the API page tells it."""

from typing import Any

from pydantic import BaseModel, Field

ANY_PICTURE = {"schema": {"type": "string", "format": "binary"}}
ONE_BODY = {"requestBody": {"required": True, "content": {"image/*": ANY_PICTURE}}}
BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": ANY_PICTURE,
            "application/octet-stream": ANY_PICTURE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "pictures": {"type": "array", "items": ANY_PICTURE["schema"]},
                    },
                }
            },
        },
    }
}


class PictureAnswer(BaseModel):
    """What became of one picture."""

    picture: str | None = Field(description="Its name, in a form.")
    prediction: str | None = Field(None, description="The likeliest class.")
    probability: float | None = Field(None, description="Of that class.")
    probabilities: dict[str, float] | None = Field(
        None, description="Of every class, or of the top ones; the likeliest first."
    )
    calibrated: bool | None = Field(
        None, description="Whether of pictures with probability 0.9, nine in ten are right."
    )
    answer: str | None = Field(
        None, description="The class, where it is sure enough; null: not sure. See /model."
    )
    set: list[str] | None = Field(
        None, description="Classes among which the true one is, as often as was asked for."
    )
    error: str | None = Field(None, description="Why it cannot be read, instead of all others.")


class Answers(BaseModel):
    """What became of the pictures of a request, in their order."""

    predictions: list[PictureAnswer] = Field(description="A PictureAnswer for each.")


class Problem(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="In English, and without names of this machine.")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in {
        400: "no such form, or not our name",
        401: "a token is needed",
        403: "asked by the page of another site",
        408: "it did not arrive in time",
        413: "more bytes than are taken",
        422: "no picture that can be read",
        429: "too many wait; Retry-After says when to come back",
        503: "leaving, or no answer in time",
    }.items()
}
