"""
The XML of the blob service: page ranges, differences, and listings.

Owns the text; knows neither signatures nor files.
Invariant: ranges are inclusive at both ends, as the service writes them.
"""

from airflow_provider_azstack.emulator.http import Answer, escape, http_date
from airflow_provider_azstack.emulator.intervals import Stretch
from airflow_provider_azstack.emulator.state import Blob


def page_list(stretches: list[Stretch]) -> str:
    """Write ``PageRange`` and ``ClearRange`` elements, in order."""
    parts = []
    for start, end, written in stretches:
        name = "PageRange" if written else "ClearRange"
        parts.append(f"<{name}><Start>{start}</Start><End>{end - 1}</End></{name}>")
    return f"<PageList>{''.join(parts)}</PageList>"


def blob_entries(name: str, blob: Blob, include: set[str]) -> list[str]:
    """Write a blob's entries in a listing: its snapshots, oldest first, and then the blob."""
    metadata = "metadata" in include
    entries = []
    for time, found in sorted(blob.snapshots.items()) if "snapshots" in include else ():
        size = found.content.size_bytes
        properties = _properties(found.etag, found.modified, size)
        entries.append(_entry(name, properties, found.metadata if metadata else {}, time))
    properties = _properties(blob.etag, blob.modified, blob.volume.size_bytes)
    status, state = ("locked", "leased") if blob.leased_by else ("unlocked", "available")
    properties += f"<LeaseStatus>{status}</LeaseStatus><LeaseState>{state}</LeaseState>"
    entries.append(_entry(name, properties, blob.metadata if metadata else {}, ""))
    return entries


def _properties(etag: str, modified: float, size: int) -> str:
    return (
        f"<Last-Modified>{http_date(modified)}</Last-Modified><Etag>{escape(etag.strip(chr(34)))}</Etag>"
        f"<Content-Length>{size}</Content-Length><BlobType>PageBlob</BlobType>"
    )


def _entry(name: str, properties: str, metadata: dict[str, str], time: str) -> str:
    snapshot = f"<Snapshot>{time}</Snapshot>" if time else ""
    pairs = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in metadata.items())
    named = f"<Metadata>{pairs}</Metadata>" if metadata else ""
    head = f"<Name>{escape(name)}</Name>{snapshot}"
    return f"<Blob>{head}<Properties>{properties}</Properties>{named}</Blob>"


def answer(text: str) -> Answer:
    """Answer with an XML body."""
    declared = f'\ufeff<?xml version="1.0" encoding="utf-8"?>{text}'
    return Answer(200, {"Content-Type": "application/xml"}, declared.encode())
