"""Errors in the shapes of vendors' own SDKs, for the test of our reader of refusals.

    pip install openai anthropic google-genai mistralai groq    # in an environment of their own
    python benchmarks/sdk_errors.py > tests/models/sdk_errors.json

Each body is made by the SDK's classes, or read back by them: so its shape is the vendor's. The
words are examples, as the vendors' documents have them. The test needs none of the packages.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from anthropic import types as anthropic
from google.genai import errors as google
from groq.types.shared import ErrorObject as GroqError
from mistralai.client.errors.httpvalidationerror import HTTPValidationErrorData
from mistralai.client.models.validationerror import ValidationError
from openai.types.shared import ErrorObject as OpenAIError

Case = tuple[str, int, Any, dict[str, Any]]
"""The SDK, the status, the body, and what is to be read of it."""

UNSUPPORTED = "Unsupported parameter: 'seed' is not supported with this model."
BUSY = "Rate limit reached. Please try again in 7.66s."
NO_KEY = "Incorrect API key provided."
NO_MONEY = "Your credit balance is too low. Please go to Plans & Billing."
NO_MODEL = "The model `mock` does not exist or you do not have access to it."


def openai_cases() -> Iterator[Case]:
    """The object below `error`."""
    for status, words, code, parameter, reads in (
        (400, UNSUPPORTED, "unsupported_parameter", "seed", {"parameter": "seed"}),
        (401, NO_KEY, "invalid_api_key", None, {"ends": "key"}),
        (404, NO_MODEL, "model_not_found", None, {"ends": "model"}),
        (429, NO_MONEY, "insufficient_quota", None, {"ends": "money"}),
        (429, BUSY, "rate_limit_exceeded", None, {"wait_s": 7.66}),
    ):
        for sdk, kind in (("openai", OpenAIError), ("groq", GroqError)):
            error = kind(message=words, type="invalid_request_error", code=code, param=parameter)
            yield sdk, status, {"error": error.to_dict()}, reads


def anthropic_cases() -> Iterator[Case]:
    """The object `error` with a type for each kind, below an object of type `error`."""
    for status, error, reads in (
        (
            400,
            anthropic.InvalidRequestError(
                type="invalid_request_error", message="seed: Extra inputs are not permitted"
            ),
            {"parameter": "seed"},
        ),
        (
            401,
            anthropic.AuthenticationError(type="authentication_error", message="invalid x-api-key"),
            {"ends": "key"},
        ),
        (402, anthropic.BillingError(type="billing_error", message=NO_MONEY), {"ends": "money"}),
        (400, anthropic.BillingError(type="billing_error", message=NO_MONEY), {"ends": "money"}),
        (
            404,
            anthropic.NotFoundError(type="not_found_error", message="model: mock"),
            {"ends": "model"},
        ),
        (429, anthropic.RateLimitError(type="rate_limit_error", message=BUSY), {"wait_s": 7.66}),
        (500, anthropic.APIErrorObject(type="api_error", message="Internal server error"), {}),
        (529, anthropic.OverloadedError(type="overloaded_error", message="Overloaded"), {}),
    ):
        response = anthropic.ErrorResponse(type="error", error=error, request_id="req_1")
        yield "anthropic", status, response.to_dict(), reads


def google_cases() -> Iterator[Case]:
    """A status with details, alone or as the one element of a list."""
    bad = "type.googleapis.com/google.rpc.BadRequest"
    retry = "type.googleapis.com/google.rpc.RetryInfo"
    unknown = 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'
    for status, name, words, details, reads in (
        (
            400,
            "INVALID_ARGUMENT",
            unknown,
            [{"@type": bad, "fieldViolations": [{"description": unknown}]}],
            {"parameter": "seed"},
        ),
        (
            400,
            "INVALID_ARGUMENT",
            "API key not valid. Please pass a valid API key.",
            [],
            {"ends": "key"},
        ),
        (
            404,
            "NOT_FOUND",
            "models/mock is not found for API version v1beta",
            [],
            {"ends": "model"},
        ),
        (
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota.",
            [{"@type": retry, "retryDelay": "7.66s"}],
            {"wait_s": 7.66},
        ),
        (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", [], {}),
    ):
        body = {"error": {"code": status, "message": words, "status": name, "details": details}}
        for shaped in (body, [body]):
            read = google.APIError(status, shaped)
            assert (read.message, read.status) == (words, name)
            yield "google-genai", status, shaped, reads


def mistral_cases() -> Iterator[Case]:
    """FastAPI's list of places, alone or below `message`."""
    refused = ValidationError(
        loc=["body", "seed"], msg="Extra inputs are not permitted", type="extra_forbidden", input=1
    )
    data = HTTPValidationErrorData(detail=[refused]).model_dump(exclude_none=True)
    for body in (data, {"object": "error", "message": data, "type": "invalid_request_error"}):
        yield "mistralai", 422, body, {"parameter": "seed"}


def main() -> None:
    """Print the cases as JSON."""
    makers = (openai_cases, anthropic_cases, google_cases, mistral_cases)
    cases = [
        {"sdk": f"{sdk} {version(sdk)}", "status": status, "body": body, "reads": reads}
        for maker in makers
        for sdk, status, body, reads in maker()
    ]
    print(json.dumps(cases, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
