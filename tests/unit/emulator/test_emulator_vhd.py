"""The footer of a fixed VHD, against the fields that its specification gives."""

import struct
import uuid

import pytest

from airflow_provider_azstack.emulator import vhd

pytestmark = pytest.mark.tier1

UNIQUE = uuid.UUID(int=7)


@pytest.mark.parametrize("mib", [1, 64, 4096, 1023 * 1024])
def test_a_footer_says_what_the_specification_wants(mib: int) -> None:
    """Cookie, type 2, both sizes, one's complement checksum, and a geometry that is no larger."""
    size = mib << 20
    footer = vhd.footer(size, UNIQUE, 1_700_000_000)
    assert len(footer) == 512
    assert footer[:8] == b"conectix"
    assert struct.unpack(">QQ", footer[40:56]) == (size, size)
    assert struct.unpack(">I", footer[60:64]) == (2,)
    (checksum,) = struct.unpack(">I", footer[64:68])
    assert checksum == ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF
    cylinders, heads, sectors = struct.unpack(">HBB", footer[56:60])
    assert 0 < cylinders * heads * sectors * 512 <= size
    assert footer[28:32] == b"win "
    assert footer[68:84] == UNIQUE.bytes
    assert vhd.check(footer, size) == ""


def test_wrong_footers_are_named() -> None:
    """A missing cookie, another size, another type, a flipped bit."""
    good = vhd.footer(1 << 20, UNIQUE, 0)
    assert "cookie" in vhd.check(bytes(512), 1 << 20)
    assert "bytes" in vhd.check(good, 2 << 20)
    assert "type" in vhd.check(good[:60] + struct.pack(">I", 3) + good[64:], 1 << 20)
    assert "checksum" in vhd.check(good[:100] + b"\1" + good[101:], 1 << 20)
