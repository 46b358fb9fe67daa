"""
A stack's Resource Manager: requests by path, answers as plain dicts with wire names.

Owns the composition: endpoints, token, api-versions, tries, paging, long operations. Knows no
resource type beyond its version, and no repository.
Invariant: every request names the api-version of its resource type, goes to the configured host,
ends within its budget, and fails with one of the package's errors.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote, urlencode

from airflow_provider_azstack.arm.addresses import origin, same_origin
from airflow_provider_azstack.arm.answers import Answer, error_of
from airflow_provider_azstack.arm.endpoints import PARAMS, PATH, parse_endpoints
from airflow_provider_azstack.arm.operations import Operations
from airflow_provider_azstack.arm.retry import (
    CONTACT_SECONDS,
    RETRIED,
    Patience,
    Tries,
    retry_after_seconds,
)
from airflow_provider_azstack.arm.sign_in import Credentials, SignIn, SignInForm
from airflow_provider_azstack.arm.versions import DEFAULT_PROFILE, api_version, profile_named
from airflow_provider_azstack.arm.wire import READ_TIMEOUT_SECONDS, Wire
from airflow_provider_azstack.errors import (
    AccessDenied,
    ConfigurationError,
    InvalidName,
    Refused,
    SourceGone,
    Unreachable,
)
from airflow_provider_azstack.secret import Secret, without_query

__all__ = ["Credentials", "Stack"]

log = logging.getLogger(__name__)

MAX_PAGES = 10_000  # a nextLink that leads in a circle ends here
MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OF_SUBSCRIPTION = re.compile(r"(/subscriptions/[^/]+)/(providers/[^/]+/[^/]+)")
_PATH = re.compile(r"/[^/?#%\\\x00-\x20\x7f]+(/[^/?#%\\\x00-\x1f\x7f]+)*\Z")


def _keep_quiet(_secret: str) -> None:
    """Do nothing with a new secret: nobody asked to mask it."""


class Stack:
    """
    One Azure Stack Hub stamp, signed in as one application. Thread-safe.

    :param arm_endpoint: ``https://management.<region>.<domain>``; plain http on this machine only.
    :param ca_bundle: PEM file with the CAs of ARM, sign-in and blob hosts; None for the system's.
    :param retry_budget_seconds: how long one request may be refused, throttled or unanswered.
    :param mid_work: wait that long also for a stack that was not heard of yet. Who has nothing
        begun hears of it after two minutes, and of a name that does not exist at once.
    :param account_keys: keys of storage accounts by name, where the application may not list them.
    :param on_secret: called with every token, key and signed URL before its first use, so that
        the caller can have them masked in its logs.
    """

    def __init__(
        self,
        arm_endpoint: str,
        credentials: Credentials,
        *,
        ca_bundle: str | None = None,
        sign_in: SignInForm = "auto",
        profile: str = DEFAULT_PROFILE,
        retry_budget_seconds: float = 900.0,
        mid_work: bool = False,
        operation_timeout_seconds: float = 3600.0,
        read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
        account_keys: Mapping[str, Secret] = MappingProxyType({}),
        on_secret: Callable[[str], None] = _keep_quiet,
    ) -> None:
        self._endpoint = arm_endpoint.rstrip("/")
        self._credentials = credentials
        self._form: SignInForm = sign_in
        self._wire = Wire(
            self._endpoint, ca_bundle=ca_bundle, read_timeout_seconds=read_timeout_seconds
        )
        self._wall_clock = wall_clock
        self._skew_seconds = 0.0
        self._lock = threading.Lock()
        self._signed_in: SignIn | None = None
        self._waits_long = mid_work  # or once anything was heard
        self.name = origin(self._endpoint)[1]
        self.profile = profile_named(profile)
        self.ca_bundle = ca_bundle
        self.account_keys = account_keys
        self.clock = clock
        self.on_secret = on_secret
        self.patience = Patience(
            retry_budget_seconds,
            clock,
            sleep,
            rng or random.Random(),  # noqa: S311 - jitter
        )
        self._operations = Operations(
            self._poll,
            self._retry_after,
            timeout_seconds=operation_timeout_seconds,
            clock=clock,
            sleep=sleep,
        )

    def now(self) -> datetime:
        """Return the stack's time, as its answers tell it; this machine's until it answered."""
        return datetime.fromtimestamp(self._wall_clock() + self._skew_seconds, UTC)

    def get(self, path: str, **params: str) -> dict[str, Any]:
        """
        Return the resource at ``path``.

        :raises SourceGone: there is none.
        """
        return self.request("GET", path, params=params).object()

    def find(self, path: str, **params: str) -> dict[str, Any] | None:
        """Return the resource at ``path``, or None when there is none."""
        answer = self.request("GET", path, params=params, accept={404})
        return answer.object() if answer.is_success else None

    def list(self, path: str, **params: str) -> Iterator[dict[str, Any]]:
        """
        Yield all items of a collection, page by page.

        What may not be listed for a whole subscription is asked for group by group: roles are
        assigned on groups, and no page says what a stack makes of that.
        """
        try:
            answer = self.request("GET", path, params=params)
        except AccessDenied as error:
            if (of_all := _OF_SUBSCRIPTION.fullmatch(path)) is None:
                raise
            yield from self._list_by_groups(of_all[1], of_all[2], error)
            return
        for _ in range(MAX_PAGES):
            page = answer.object()
            items = page.get("value", [])
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise Unreachable(f"{answer.what}: the answer is no list of resources")
            yield from items
            address = page.get("nextLink")
            if not address:
                return
            url = same_origin(str(address), self._endpoint, "the next page")
            answer = self._checked(self._send("GET", url, None, answer.what))
        raise Unreachable(f"{answer.what}: more than {MAX_PAGES} pages: the list does not end")

    def _list_by_groups(
        self, subscription: str, kind: str, denied: AccessDenied
    ) -> Iterator[dict[str, Any]]:
        is_readable = False
        for group in self.list(f"{subscription}/resourcegroups"):
            try:
                found = [*self.list(f"{subscription}/resourceGroups/{group['name']}/{kind}")]
            except (AccessDenied, SourceGone):
                continue
            if not is_readable:
                log.warning("only resource groups that may be read are looked into: %s", denied)
                is_readable = True
            yield from found
        if not is_readable:
            raise denied

    def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create or update the resource at ``path``; return it as it is when that has ended."""
        self.finish(self.request("PUT", path, body=body))
        return self.get(path)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run the action at ``path`` and return its result."""
        started = self.request("POST", path, body=body)
        return self._operations.result(started, has_output=True)

    def run(self, path: str) -> None:
        """Run the action at ``path``, which has no result; return when it has ended."""
        self.finish(self.request("POST", path))

    def delete(self, path: str) -> None:
        """Delete the resource at ``path``; nothing there is success."""
        answer = self.request("DELETE", path, accept={404})
        if answer.status != 404:
            self.finish(answer)

    def finish(self, started: Answer) -> None:
        """Wait for the end of the operation that ``started`` began."""
        self._operations.result(started, has_output=False)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: Collection[int] = (),
    ) -> Answer:
        """
        Send one request, try again while that can help, and return the answer.

        :param accept: statuses from 400 on that the caller handles itself.
        :raises AzStackError: any other status from 400 on.
        """
        if not _PATH.match(path) or any(part in {".", ".."} for part in path.split("/")):
            raise InvalidName(f"{path[:200]!r} is no path of a resource")
        query = {**(params or {}), "api-version": api_version(path, self.profile)}
        url = f"{self._endpoint}{quote(path)}?{urlencode(query, safe='$')}"
        return self._checked(self._send(method, url, body, f"{method} {path}"), accept)

    def subscriptions(self) -> Iterator[dict[str, Any]]:
        """Yield the subscriptions that the application can see."""
        return self.list("/subscriptions")

    def close(self) -> None:
        """Close idle connections."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _poll(self, address: str, what: str) -> Answer:
        url = same_origin(address, self._endpoint, "a polling address")
        return self._checked(self._send("GET", url, None, what), {404})

    def _checked(self, answer: Answer, accept: Collection[int] = ()) -> Answer:
        if answer.is_success or answer.status in accept:
            return answer
        raise error_of(answer)

    def _send(self, method: str, url: str, body: Mapping[str, Any] | None, what: str) -> Answer:
        """Send until there is an answer that trying again would not change."""
        tries = self.patience.start()
        token_renewed = False
        for _ in range(MAX_REDIRECTS):
            answer = self._settled(tries, method, url, body, what)
            if answer.status == 401 and not token_renewed:
                token_renewed = True  # _settled forgot the refused one
                continue
            if answer.status not in _REDIRECTS:
                return answer
            url = same_origin(answer.field("location"), url, "a redirect")
        raise Refused(f"{what}: {without_query(url)} redirects without end")

    def _settled(
        self, tries: Tries, method: str, url: str, body: Mapping[str, Any] | None, what: str
    ) -> Answer:
        """Send until the answer is neither missing nor "not now"."""
        while True:
            try:
                sign_in = self._sign_in()
                token = sign_in.token()
                answer = self._wire.send(method, url, what=what, token=token, body=body)
            except Unreachable as error:
                self._wait_for_contact(tries, error)
                continue
            self._waits_long = True
            self._learn_time(answer)
            if answer.status == 401:
                sign_in.reject(token)
            if answer.status not in RETRIED:
                return answer
            pause = self._retry_after(answer)
            tries.wait(error_of(answer, pause), pause)

    def _wait_for_contact(self, tries: Tries, error: Unreachable) -> None:
        """Wait before the next try: not long where nothing was ever heard, as with a wrong host."""
        if self._waits_long or not error.is_silent:
            self._waits_long = True
            tries.wait(error)
            return
        if error.is_unknown:
            raise ConfigurationError(str(error)) from None
        log.warning("no answer yet: %s", error)  # the console shows warnings, and nothing else
        tries.wait(error, within_seconds=CONTACT_SECONDS)

    def _sign_in(self) -> SignIn:
        """Return the sign-in, found through the stack's endpoint list the first time."""
        with self._lock:
            if self._signed_in is None:
                what = f"GET {self._endpoint}{PATH}"
                url = f"{self._endpoint}{PATH}?{urlencode(PARAMS)}"
                answer = self._wire.send("GET", url, what=what)
                if answer.status in RETRIED:
                    raise Unreachable(f"{what}: status {answer.status}: the stack is not well")
                self._learn_time(answer)
                self._signed_in = SignIn(
                    self._credentials,
                    parse_endpoints(self._checked(answer)),
                    self._wire,
                    form=self._form,
                    clock=self.clock,
                    on_secret=self.on_secret,
                )
            return self._signed_in

    def _retry_after(self, answer: Answer) -> float | None:
        return retry_after_seconds(answer.headers.get("retry-after"), self.now().timestamp())

    def _learn_time(self, answer: Answer) -> None:
        """Note how far this machine's clock is off: signatures must hold by the stack's."""
        try:
            theirs = parsedate_to_datetime(answer.field("date")).timestamp()
        except (ValueError, OverflowError):
            return
        self._skew_seconds = theirs - self._wall_clock()
