"""How to reach an object store."""

from pydantic import BaseModel, ConfigDict, Field


class S3Settings(BaseModel):
    """How to reach S3, where the usual AWS variables and profiles do not say. Credentials do not belong
    here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint_url: str | None = Field(None, description="URL of a store other than AWS's.")
    region: str | None = Field(None, description="Region, as in `AWS_REGION`.")
    profile: str | None = Field(None, description="Name of a profile in the AWS configuration files.")
    anonymous: bool = Field(
        False,
        description="Send unsigned requests, for public buckets if you have no credentials. It applies to "
        "input and output: write the table to a local folder.",
    )
    requester_pays: bool = Field(
        False, description="Pay for the requests yourself, as some public buckets require."
    )
