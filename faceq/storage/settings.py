"""Settings of the connection to an object store."""

from pydantic import BaseModel, ConfigDict, Field


class S3Settings(BaseModel):
    """How to connect to S3. Anything not set here comes from the usual AWS environment variables and
    profiles. Do not put credentials here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint_url: str | None = Field(None, description="URL of a store other than AWS S3.")
    region: str | None = Field(None, description="Region, as in `AWS_REGION`.")
    profile: str | None = Field(None, description="Name of a profile in the AWS configuration files.")
    anonymous: bool = Field(
        False,
        description="Send unsigned requests, to read public buckets without credentials. This also applies "
        "to the output, so write the table to a local folder.",
    )
    requester_pays: bool = Field(
        False, description="Pay for the requests yourself, as some public buckets require."
    )
