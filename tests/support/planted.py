"""Secrets that tests put wherever a job takes one."""

PLANTED = "pLaNtEd"
"""All secrets begin with it."""

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": f"{PLANTED}/secret+key",
    "AWS_SESSION_TOKEN": f"{PLANTED}SessionToken==",
    "HTTPS_PROXY": f"http://user:{PLANTED}Proxy@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
}
SIGNED = f"X-Amz-Credential=AKIA{PLANTED}%2F2026&X-Amz-Security-Token={PLANTED}t&X-Amz-Signature={PLANTED}s"
