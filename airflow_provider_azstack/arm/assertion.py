"""
The proof that an application has its certificate's key: a signed assertion.

Owns the reading of the certificate; knows no token and sends nothing.
Invariant: the private key leaves only as a signature, for one address and ten minutes.
"""

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import load_pem_x509_certificate
from msal.oauth2cli import JwtAssertionCreator

from airflow_provider_azstack.arm.answers import one_line
from airflow_provider_azstack.errors import ConfigurationError
from airflow_provider_azstack.secret import Secret


def assertion(client_id: str, certificate: Secret, password: Secret | None, url: str) -> str:
    """
    Return a JWT that proves possession of the certificate's key (RFC 7523).

    :param certificate: PEM text with the certificate and its private key.
    :param url: where it is sent; it is good for nothing else.
    :raises ConfigurationError: the certificate, its key or the password is not what it must be.
    """
    pem = certificate.reveal().encode()
    try:
        key = serialization.load_pem_private_key(
            pem, password.reveal().encode() if password else None
        )
        thumbprint = load_pem_x509_certificate(pem).fingerprint(hashes.SHA1()).hex()  # noqa: S303 - x5t
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"the connection's certificate cannot be read ({one_line(str(error))}): "
            "give PEM text with the certificate and its private key, and the key's password"
        ) from None
    creator = JwtAssertionCreator(key, algorithm="RS256", sha1_thumbprint=thumbprint)
    made = creator.create_normal_assertion(audience=url, issuer=client_id)
    return made if isinstance(made, str) else str(made, "ascii")
