"""What can go wrong, sorted by who has to act. Knows no HTTP: statuses stand in `server.respond`,
bodies in the client's dialect.

Every leaf class carries, as class attributes, all that the relay and the responder decide by:

- `source`    who has to act: the client, the operator's policy, the upstream or the gateway itself
- `code`      public and stable; what a program matches on
- `try_next`  whether another candidate may succeed where this one failed
- `same`      whether the same candidate is worth another try: "no", "once", or "tries" (up to `[retry] tries`)
- `cooldown`  what it says of the candidate's health: "none", "short", "normal", or "key" (this credential)
- `retry_helps`  whether the same request may succeed later; False becomes `x-should-retry: false`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from attrs import field

from proxy.record import frozen

Source = Literal["client", "policy", "upstream", "gateway"]
Same = Literal["no", "once", "tries"]
Cooldown = Literal["none", "short", "normal", "key"]


@frozen
class Foreign:
    """An upstream's own error answer, kept so that it can pass unchanged."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    dialect: str = ""  # whose error JSON `body` is; "" when it is nobody's (HTML, text, nothing)


class GatewayError(Exception):
    """Base of all errors that end a request or an attempt.

    `message` is for the client: it says what was wrong, where, and what to do, and holds no secret and no internal
    host. `param` is the path of the field at fault. `retry_after` is in seconds. `detail` is for the record only.
    """

    source: ClassVar[Source] = "gateway"
    code: ClassVar[str] = "internal_error"
    try_next: ClassVar[bool] = False
    same: ClassVar[Same] = "no"
    cooldown: ClassVar[Cooldown] = "none"
    retry_helps: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        foreign: Foreign | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.foreign = foreign
        self.detail = detail


# -- the client has to act ---------------------------------------------------------------------------------------


class ClientError(GatewayError):
    source = "client"
    code = "invalid_request"


class InvalidRequest(ClientError):
    """The body is JSON, but not a request of this surface; `param` names the field."""


class InvalidJson(ClientError):
    code = "invalid_json"


class MissingModel(ClientError):
    code = "missing_model"


class UnknownModel(ClientError):
    code = "model_not_found"


class UnknownPath(ClientError):
    code = "unknown_path"


class WrongMethod(ClientError):
    code = "method_not_allowed"


class WrongMediaType(ClientError):
    code = "unsupported_media_type"


class BodyTooLarge(ClientError):
    code = "body_too_large"


class BodyTimeout(ClientError):
    """The body did not arrive in time."""

    code = "body_timeout"
    retry_helps = True


class Unsupported(ClientError):
    """The request asks for what the candidate's dialect cannot say. Another candidate may."""

    code = "unsupported"
    try_next = True


class NoCapableCandidate(ClientError):
    """Every candidate lacks something that the request needs."""

    code = "no_capable_model"


class PriceCeiling(ClientError):
    """Every candidate's worst case costs more than the request allows."""

    code = "price_ceiling"


class ClientGone(ClientError):
    """Nobody is left to answer; stands only in the record."""

    code = "client_closed"


# -- policy: the operator or the owner of the key has to act -----------------------------------------------------


class PolicyError(GatewayError):
    source = "policy"
    code = "not_allowed"


class Unauthenticated(PolicyError):
    code = "invalid_api_key"


class NotAllowed(PolicyError):
    """The caller is known, and may not do this."""


class BudgetSpent(PolicyError):
    code = "insufficient_quota"


class LimitReached(PolicyError):
    """A rate limit of this gateway, not of a provider."""

    code = "rate_limit_exceeded"
    retry_helps = True


# -- the gateway or its operator ---------------------------------------------------------------------------------


class NotConfigured(GatewayError):
    """No candidate has a credential; the message names the variable to set."""

    code = "provider_not_configured"


class AllCooling(GatewayError):
    """Every candidate failed lately; `retry_after` says when the first is tried again."""

    code = "all_candidates_cooling"
    retry_helps = True


class Overloaded(GatewayError):
    """This process is at its own limit, or draining."""

    code = "gateway_overloaded"
    retry_helps = True


class LoopDetected(GatewayError):
    """The request has passed through this gateway before."""

    code = "loop_detected"


class Internal(GatewayError):
    """A fault of ours. The message never says more than that; the log does."""

    retry_helps = True


# -- the upstream ------------------------------------------------------------------------------------------------


class UpstreamError(GatewayError):
    """An attempt failed. `foreign` is the provider's own answer where there was one."""

    source: ClassVar[Source] = "upstream"
    code = "upstream_error"
    try_next = True
    retry_helps = True


class UpstreamUnreachable(UpstreamError):
    """DNS, connect, TLS, or closed before a byte of an answer came."""

    code = "upstream_unreachable"
    same = "once"
    cooldown = "normal"


class UpstreamTimeout(UpstreamError):
    code = "upstream_timeout"
    cooldown = "normal"


class UpstreamBroken(UpstreamError):
    """An answer that is cut, is not what it says it is, or is empty without a reason."""

    code = "bad_upstream_response"
    cooldown = "normal"


class UpstreamFailed(UpstreamError):
    """A status that speaks of trouble over there: 408 409 425 500 502 503 504 520-524 and unknown 5xx."""

    code = "upstream_failed"
    same = "tries"
    cooldown = "normal"


class UpstreamOverloaded(UpstreamError):
    code = "upstream_overloaded"
    cooldown = "short"


class UpstreamRateLimited(UpstreamError):
    code = "upstream_rate_limited"
    cooldown = "key"


class UpstreamRefusedKey(UpstreamError):
    """Our credential is refused or out of money: 401, 402, 403 of our key. Never the client's fault."""

    code = "upstream_credentials"
    cooldown = "key"
    retry_helps = False


class CallerKeyRefused(UpstreamError):
    """The provider refuses the key that the caller brought."""

    source = "client"
    code = "caller_key_refused"
    try_next = False
    retry_helps = False


class UpstreamRejected(UpstreamError):
    """The provider finds fault with the request itself: it would so again."""

    source = "client"
    code = "upstream_rejected"
    try_next = False
    retry_helps = False


class UpstreamUnknownModel(UpstreamRejected):
    code = "upstream_model_not_found"
    try_next = True


class ContextTooLong(UpstreamRejected):
    """Goes on to candidates with a larger window only."""

    code = "context_length_exceeded"
    try_next = True


class ContentBlocked(UpstreamRejected):
    """The provider's content policy. Goes on only where the profile allows it."""

    code = "content_policy"
    try_next = True
