"""Where webhooks may lead: what is not public is refused, however it is written."""

import ipaddress

import pytest

from longrun.webhooks.targets import UnusableURL, may_connect, networks_of, read_url

REFUSED = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.9.9.9"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.1.1"),
    *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1"),
    *("2001::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "fc00::1", "fd12:3456::1"),
    *("fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "3fff::1", "4000::1", "::ffff:0:127.0.0.1"),
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "2606:4700::1111",
    "::ffff:1.1.1.1",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_public_is_not_connected_to(address: str) -> None:
    assert not may_connect(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is(address: str) -> None:
    assert may_connect(ipaddress.ip_address(address))


def test_what_is_allowed_is_however_it_is_wrapped() -> None:
    allowed = networks_of(["10.1.0.0/16", "fd00:1::/32"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00:1::7"):
        assert may_connect(ipaddress.ip_address(address), allowed)
    for address in ("10.2.0.1", "::ffff:10.2.0.1", "fd00:2::7", "127.0.0.1"):
        assert not may_connect(ipaddress.ip_address(address), allowed)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not http"),
        ("hook.example/x", "not http"),
        ("//hook.example/x", "not http"),
        ("ftp://hook.example/", "not http"),
        ("file:///etc/passwd", "not http"),
        ("https://", "not http"),
        ("https://a:b@hook.example/", "a user"),
        ("https://a@hook.example/", "a user"),
        ("https://hook.example/#x", "fragment"),
        ("https://hook.example:0/", "port from"),
        ("https://hook.example:99999/", "port from"),
        ("https://hook.example/\r\nx: y", "cannot be read"),
        ("http://localhost/", "not public"),
        ("http://LOCALHOST./", "not public"),
        ("http://127.0.0.1:8000/", "not public"),
        ("http://[::1]/", "not public"),
        ("http://[::ffff:7f00:1]/", "not public"),
        ("https://hook.example/" + "x" * 2048, "2048"),
    ],
)
def test_urls_that_nothing_is_posted_to(url: str, says: str) -> None:
    with pytest.raises(UnusableURL, match=says):
        read_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://hook.example",
        "http://hook.example:8080/a?b=c",
        "https://1.1.1.1/",
        "https://bücher.example/",
    ],
)
def test_urls_that_something_is_posted_to(url: str) -> None:
    assert read_url(url).host
