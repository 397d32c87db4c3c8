# SPDX-License-Identifier: Apache-2.0
"""What a client is told when a request cannot be answered, in the shape OpenAI's clients read."""

from __future__ import annotations

from typing import Any

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


class ApiError(Exception):
    """A status and a message without paths; the message is the client's to read."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        message = message.encode("utf-8", "backslashreplace").decode()  # clients may send half a surrogate pair
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after
        """Seconds after which another try makes sense."""

    def body(self) -> dict[str, Any]:
        """The reply's content."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}
