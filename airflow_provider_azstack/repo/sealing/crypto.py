"""
Keys: passphrase -> key-encryption key -> master key -> sub-keys; sealing with bound context.

Owns every use of a cipher or a key derivation; knows no packs, no points, no stores.
Invariant: what opens was sealed by a holder of the master key, for this repository, as this kind
of object, under this very name. No nonce is used twice with a key: records draw theirs at random,
a pack has a key of its own and counts.
"""

import base64
import os
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from msgspec import Meta

from airflow_provider_azstack.errors import Tampered, WrongKey
from airflow_provider_azstack.secret import Secret
from airflow_provider_azstack.store.base import Buffer

Random = Callable[[int], bytes]

KEY_BYTES = 32
ID_BYTES = 16  # of repositories, packs, keys, sessions: random, so never used twice
BLOCK_ID_BYTES = 32
SALT_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
MAX_KEY_OBJECT_BYTES = 4096
MAX_KEYS_TRIED = (
    16  # each costs a key derivation: a pile of planted keys must not stop us for hours
)
_MAGIC = b"AZS1"
_RECOVERY = re.compile(r"[a-z2-7]{48}")


class Cost(NamedTuple):
    """
    What one derivation costs.

    scrypt: ``128 * n * r`` bytes of memory, ``p`` times over. argon2id: ``n`` KiB of memory, ``r``
    passes over it, in ``p`` lanes.
    """

    n: int
    r: int = 8
    p: int = 1
    kdf: str = "scrypt"

    @property
    def memory_bytes(self) -> int:
        """The memory that it takes."""
        return 1024 * self.n if self.kdf == "argon2id" else 128 * self.n * self.r

    @property
    def is_bounded(self) -> bool:
        """Tell whether a reader may be asked for it."""
        if self.memory_bytes > MAX_MEMORY_BYTES:
            return False
        if self.kdf == "argon2id":
            return self.n >= 8 * self.p and self.r <= MAX_PASSES and self.p <= MAX_LANES
        return not self.n & (self.n - 1) and self.p <= MAX_PASSES


# RFC 9106's second recommendation: 64 MiB, 0.1 s on two cores. Every start of a stream and of a
# command pays it; scrypt of the same strength takes 0.4 s and 128 MiB.
STRONG = Cost(64 * 2**10, 3, 4, "argon2id")
MAX_MEMORY_BYTES = 512 * 2**20
MAX_PASSES = 4
MAX_LANES = 16


class WrappedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The master key under one passphrase: ``keys/<id>``, plain JSON around a sealed key."""

    kdf: Annotated[str, Meta(pattern=r"\A(scrypt|argon2id)\Z")]
    n: Annotated[int, Meta(ge=2, le=2**30)]
    r: Annotated[int, Meta(ge=1, le=2**10)]
    p: Annotated[int, Meta(ge=1, le=2**10)]
    salt: Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
    sealed: Annotated[
        bytes, Meta(min_length=KEY_BYTES + TAG_BYTES, max_length=KEY_BYTES + TAG_BYTES)
    ]
    label: Annotated[str, Meta(max_length=64)]
    created_at: Annotated[datetime, Meta(tz=True)]
    tag: Annotated[str, Meta(max_length=64)] = ""  # proves that a key holder wrote all of it


def recovery_passphrase(random: Random = os.urandom) -> Secret:
    """Return a passphrase of 240 random bits, in groups that can be copied from paper."""
    text = base64.b32encode(random(30)).decode("ascii").lower()
    return Secret(_grouped(text))


def context(repository_id: bytes, kind: str, name: str) -> bytes:
    """Return the associated data that ties sealed bytes to one object of one repository."""
    return b"%b%b\0%b\0" % (repository_id, kind.encode(), name.encode())


def unwrap(data: bytes, passphrase: Secret, repository_id: bytes, name: str) -> bytes:
    """
    Return the master key from the object ``name``.

    :raises Tampered: it is not such an object, or asks for an absurd derivation cost.
    :raises WrongKey: the passphrase does not open it.
    """
    key = _parse_wrapped(data, name)
    cost = Cost(key.n, key.r, key.p, key.kdf)
    cipher = AESGCM(_derive_from_passphrase(passphrase, key.salt, cost))
    try:
        master = cipher.decrypt(key.nonce, key.sealed, context(repository_id, "key", name))
    except InvalidTag:
        raise WrongKey(f"{name} does not open with this passphrase") from None
    Keys(repository_id, master).read_wrapped(data, name)
    return master


def _parse_wrapped(data: bytes, name: str) -> WrappedKey:
    if len(data) > MAX_KEY_OBJECT_BYTES:
        raise Tampered(f"{name} has {len(data)} bytes, more than a wrapped key can have")
    try:
        key = msgspec.json.decode(data, type=WrappedKey)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Tampered(f"{name} is not a wrapped key: {error}") from None
    if msgspec.json.encode(key) != data:  # base64 and JSON can be spelt in several ways
        raise Tampered(f"{name} was altered")
    if not Cost(key.n, key.r, key.p, key.kdf).is_bounded:
        asked = f"{key.kdf} n={key.n} r={key.r} p={key.p}"
        raise Tampered(f"{name} asks for {asked}, beyond our bounds")
    return key


def label_of(data: bytes, name: str) -> str:
    """
    Return what the object ``name`` is called; not proven before it is opened.

    :raises Tampered: it is not a wrapped key.
    """
    return _parse_wrapped(data, name).label


def _derive_from_passphrase(passphrase: Secret, salt: bytes, cost: Cost) -> bytes:
    kdf: Argon2id | Scrypt
    if cost.kdf == "argon2id":
        kdf = Argon2id(
            salt=salt, length=KEY_BYTES, iterations=cost.r, lanes=cost.p, memory_cost=cost.n
        )
    else:
        kdf = Scrypt(salt=salt, length=KEY_BYTES, n=cost.n, r=cost.r, p=cost.p)
    return kdf.derive(_as_printed(passphrase.reveal()).encode())


def is_recovery_key(passphrase: Secret) -> bool:
    """Tell whether it looks like a recovery key."""
    return _RECOVERY.fullmatch(_letters(passphrase.reveal())) is not None


def _as_printed(text: str) -> str:
    """Return a recovery key as it was printed, however it was typed; any other text unchanged."""
    letters = _letters(text)
    return _grouped(letters) if _RECOVERY.fullmatch(letters) else text


def _letters(text: str) -> str:
    return re.sub(r"[\s-]", "", text).lower()


def _grouped(letters: str) -> str:
    return "-".join(letters[i : i + 6] for i in range(0, len(letters), 6))


class Keys:
    """The sub-keys of one repository, and what is done with them."""

    def __init__(self, repository_id: bytes, master: bytes, random: Random = os.urandom) -> None:
        self.repository_id = repository_id
        self.random = random
        self._master = master
        self._ids = self._sub_key("block ids")
        self._metadata = AESGCM(self._sub_key("metadata"))

    def block_id(self, data: Buffer) -> bytes:
        """Return the id of a block: only a key holder can tell which content has it."""
        return blake3(data, key=self._ids).digest()

    def config_tag(self, data: bytes) -> str:
        """Return what proves that a key holder wrote ``data`` as the repository's config."""
        return blake3(data, key=self._sub_key("config")).hexdigest()

    def wrap(
        self, name: str, passphrase: Secret, cost: Cost, *, label: str, created_at: datetime
    ) -> bytes:
        """Return the object ``name``: the master key under a passphrase."""
        salt, nonce = self.random(SALT_BYTES), self.random(NONCE_BYTES)
        cipher = AESGCM(_derive_from_passphrase(passphrase, salt, cost))
        bound = context(self.repository_id, "key", name)
        sealed = cipher.encrypt(nonce, self._master, bound)
        key = WrappedKey(cost.kdf, cost.n, cost.r, cost.p, salt, nonce, sealed, label, created_at)
        return msgspec.json.encode(self._tagged(key, name))

    def read_wrapped(self, data: bytes, name: str) -> WrappedKey:
        """
        Return what the object ``name`` says of itself, which needs no passphrase.

        :raises Tampered: no key holder wrote it like this.
        """
        key = _parse_wrapped(data, name)
        if self._tagged(key, name) != key:
            raise Tampered(f"{name} was altered, or not written by a key holder")
        return key

    def opens(self, data: bytes, passphrase: Secret, name: str) -> bool:
        """Tell whether a passphrase gets the master key out of the object ``name``."""
        try:
            return unwrap(data, passphrase, self.repository_id, name) == self._master
        except (WrongKey, Tampered):
            return False

    def pack_cipher(self, salt: bytes) -> AESGCM:
        """Return the cipher of the one pack with this salt."""
        return AESGCM(self._sub_key("pack", salt))

    def seal(self, name: str, data: Buffer) -> bytes:
        """Return ``data`` as the sealed object ``name``."""
        nonce = self.random(NONCE_BYTES)
        return _MAGIC + nonce + self._metadata.encrypt(nonce, data, self._bound(name))

    def open(self, name: str, sealed: bytes) -> bytes:
        """
        Return what was sealed as the object ``name``.

        :raises Tampered: these are not the bytes that a key holder wrote under that name.
        """
        view = memoryview(sealed)
        start = len(_MAGIC) + NONCE_BYTES
        if len(view) < start + TAG_BYTES or view[: len(_MAGIC)] != _MAGIC:
            raise Tampered(f"{name} is not a sealed object: {len(view)} bytes")
        try:
            return self._metadata.decrypt(
                view[len(_MAGIC) : start], view[start:], self._bound(name)
            )
        except InvalidTag:
            raise Tampered(f"{name} was altered, damaged, or moved from another name") from None

    def _bound(self, name: str) -> bytes:
        return context(self.repository_id, name.partition("/")[0], name)

    def _tagged(self, key: WrappedKey, name: str) -> WrappedKey:
        untagged = msgspec.structs.replace(key, tag="")
        data = context(self.repository_id, "key", name) + msgspec.json.encode(untagged)
        tag = blake3(data, key=self._sub_key("wrapped keys")).hexdigest()
        return msgspec.structs.replace(key, tag=tag)

    def _sub_key(self, purpose: str, salt: bytes = b"") -> bytes:
        info = b"azstack " + purpose.encode() + b"\0" + salt
        return HKDF(SHA256(), KEY_BYTES, self.repository_id, info).derive(self._master)
