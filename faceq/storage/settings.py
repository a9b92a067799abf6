"""How to reach an object store."""

from pydantic import BaseModel, ConfigDict


class S3Settings(BaseModel):
    """Where S3 is, if the usual AWS variables and profiles do not say. Credentials never stand here.

    anonymous: requests are not signed, as public buckets allow. requester_pays: you pay for the requests, as
    some public buckets ask.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    requester_pays: bool = False
