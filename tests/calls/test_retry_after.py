"""What servers ask to wait, in all the ways in which they say it."""

from email.utils import formatdate

import pytest

from prefine.calls.retry_after import wait_s

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "words", "seconds"),
    [
        ({"retry-after": "2"}, "", 2.0),
        ({"retry-after": "1.5"}, "", 1.5),
        ({"retry-after": "0"}, "", 0.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, "", 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, "", 0.0),
        ({"retry-after-ms": "700", "retry-after": "1"}, "", 0.7),
        ({"x-ratelimit-reset-requests": "6m0s"}, "", 360.0),
        ({"x-ratelimit-reset-tokens": "20ms"}, "", 0.02),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, "", 3723.5),
        # Of two limits the one that is used up counts.
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "12s",
                "x-ratelimit-remaining-tokens": "4000",
                "x-ratelimit-reset-tokens": "1s",
            },
            "",
            12.0,
        ),
        # A point in time since 1970, in milliseconds and in seconds.
        ({"x-ratelimit-reset": f"{(NOW + 5) * 1000:.0f}"}, "", 5.0),
        ({"x-ratelimit-reset": f"{NOW + 5:.0f}"}, "", 5.0),
        ({"anthropic-ratelimit-requests-reset": "2027-01-15T08:00:07Z"}, "", 7.0),
        ({}, "Rate limit reached. Please try again in 7.66s. Need more?", 7.66),
        ({}, "Please try again in 1m2.5s", 62.5),
        ({}, "Please retry in 250ms", 0.25),
        ({}, "Please wait 2 minutes before trying", 120.0),
        ({}, "retrydelay 34s", 34.0),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "-5"}, "", None),
        ({"retry-after": "inf"}, "", None),
        ({"retry-after": "soon"}, "try again in 3s", 3.0),
        ({}, "the model answered 12s ago", None),
        ({}, "", None),
    ],
)
def test_the_time_to_wait(headers: dict[str, str], words: str, seconds: float | None) -> None:
    found = wait_s(headers, words, now=NOW)
    assert found == (None if seconds is None else pytest.approx(seconds))
