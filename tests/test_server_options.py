"""The options of a server: addresses that are taken and refused, and how long a server may ask to wait."""

import time
from typing import Any

import pytest

from rbft_trl.errors import UserError
from rbft_trl.model import server as client
from rbft_trl.rationale_config import RationaleArguments

SECRET = "sk-not-to-be-seen-anywhere-0815"


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("https://gpu.example/api/v1/", "https://gpu.example/api/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_addresses_that_are_taken(url: str, taken: str) -> None:
    assert RationaleArguments(output_file="r.jsonl", server_url=url).server_url == taken


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"server_url": "localhost:8000"}, "write e.g. http://localhost:8000/v1"),
        ({"server_url": "ftp://host/v1"}, "is no address of a server"),
        ({"server_url": "http://host:port/v1"}, "is no address of a server"),
        ({"server_url": "http://[::1/v1"}, "is no address of a server"),
        ({"server_url": "http://host/v1?key=1"}, "is no address of a server"),
        ({"server_url": ""}, "is no address of a server"),
        ({"server_url": f"http://me:{SECRET}@host/v1"}, "set RBFT_SERVER_KEY instead"),
        ({"server_url": "http://host", "concurrency": 0}, "'concurrency' is 0 but must be from 1 to 1024"),
        ({"server_url": "http://host", "server_timeout": 0.0}, "'server_timeout' is 0.0 but must be above 0, at most"),
        ({"server_model": "toy"}, "'server_model' is 'toy' but without server_url"),
        ({"concurrency": 2}, "'concurrency' is 2 but without server_url"),
    ],
)
def test_server_options_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        RationaleArguments(output_file="r.jsonl", **options)
    assert words in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("3", 3, 3),
        ("-1", 0, 0),
        ("nan", None, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_how_long_a_server_asks_to_wait(header: str | None, low: float | None, high: float | None) -> None:
    found = client.asked_wait(header)
    assert found is None if low is None else low <= found <= high
    ahead = client.asked_wait(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90)))
    assert 80 < ahead <= 91
