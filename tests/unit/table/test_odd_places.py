"""Tables in folders whose names are special in URLs, globs, format strings or shells."""

from pathlib import Path

import pytest

from faceq.query import compact
from faceq.query.rows import read_table
from faceq.storage.filesystem import filesystem, path_of
from faceq.storage.settings import S3Settings
from faceq.table import repair
from faceq.table.store import Table

NAMES = (
    *(
        "a b",
        "50% %41 %2F",
        "ä日😀",
        "x=1&y=2;z",
        "status=scored",
        "#1?versionId=2",
        "[a]*{b}?",
        "'q\"",
        "+plus+",
    ),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_table_is_read_continued_and_compacted_under_any_name(request, tmp_path, looked_at, name, where):
    root = str(tmp_path) if where == "disk" else f"{request.getfixturevalue('s3')}/odd"
    out = f"{root}/{name}/table"
    files = filesystem(out, S3Settings())
    for path in Path(looked_at).rglob("*.*"):
        if path.is_file():
            target = path_of(f"{out}/{path.relative_to(looked_at)}")
            files.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            files.pipe_file(target, path.read_bytes())
    rows = len(Table(looked_at, S3Settings()).rows(["source"]))
    table = Table(out, S3Settings())
    ids = repair.prepare(table, set()).ids
    assert len(table.runs()) == 1 and len(ids) == len(table.rows(["source"])) == rows
    assert len(read_table(out, "status = 'scored'")) == len(read_table(looked_at, "status = 'scored'")) > 0
    assert compact.compact(out, f"{root}/{name}/compacted", S3Settings())[0] == rows
    assert len(read_table(f"{root}/{name}/compacted")) == rows
