"""
A private certificate authority, made on the spot.

Owns keys and certificates; knows nothing of servers. Invariant: the CA's key is never written.
"""

import datetime as dt
import functools
import ipaddress
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ServerCertificate = Literal["good", "expired", "other name"]
_DAY = dt.timedelta(days=1)


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: CertificateIssuerPrivateKeyTypes

    def certificate_pem(self) -> bytes:
        """Return the certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def pem(self) -> bytes:
        """Return key and certificate as PEM."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return key + self.certificate_pem()


@functools.cache
def authority() -> Pair:
    """Return this process's certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Stack emulator CA")
    builder = _builder(name, name, key, days=3650).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    usage = {"digital_signature", "key_cert_sign", "crl_sign"}
    builder = builder.add_extension(_key_usage(usage), critical=True)
    return Pair(builder.sign(key, hashes.SHA256()), key)


@functools.cache
def server_pair(kind: ServerCertificate = "good") -> Pair:
    """Return the servers' certificate, good for 127.0.0.1 and localhost, or broken on purpose."""
    ca = authority()
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    if kind == "other name":
        names = [x509.DNSName("elsewhere.example")]
    days = -1 if kind == "expired" else 825
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = (
        _builder(_name("Stack emulator"), ca.certificate.subject, key, days=days)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_key_usage({"digital_signature"}), critical=True)
        .add_extension(identifier, critical=False)
    )
    return Pair(builder.sign(ca.key, hashes.SHA256()), key)


@functools.cache
def client_pair() -> Pair:
    """Return a self-signed certificate for a service principal; RSA, as sign-in demands."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = _name("backup principal")
    return Pair(_builder(name, name, key, days=825).sign(key, hashes.SHA256()), key)


def write_files(directory: Path, kind: ServerCertificate) -> tuple[Path, Path]:
    """Write the CA's certificate and the servers' key pair; return their paths."""
    ca_file, server_file = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(authority().certificate_pem())
    server_file.touch(mode=0o600)
    server_file.write_bytes(server_pair(kind).pem())
    return ca_file, server_file


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: CertificateIssuerPrivateKeyTypes, *, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 30 * _DAY)
        .not_valid_after(now + days * _DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(granted: set[str]) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in granted for name in every})
