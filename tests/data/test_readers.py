"""Finding data files and reading their records; every error names the argument or the file, and the row."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.world import ROOT, passage, write_jsonl

from dpr_lightning.data.containers import read_records
from dpr_lightning.data.readers import find_files
from dpr_lightning.errors import UserError


def message_of(function, *args, **options):
    """Return the error's message, which must be one line."""
    with pytest.raises(UserError) as caught:
        result = function(*args, **options)
        list(result)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.jsonl", "a.jsonl.gz", "sub/c.jsonl", "notes.txt"):
        write_jsonl(tmp_path / name, [passage(1)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_paths_globs_and_lists_keep_their_order(folder):
    def names(spec):
        return [str(file.relative_to(folder)) for file in find_files(spec, name="corpus")]

    assert names(f"{folder}/b.jsonl") == ["b.jsonl"]
    assert names(f"{folder}/*.jsonl*") == ["a.jsonl.gz", "b.jsonl"]
    assert names(f"{folder}/**/*.jsonl") == ["b.jsonl", "sub/c.jsonl"]
    assert names([f"{folder}/b.jsonl", f"{folder}/a*"]) == ["b.jsonl", "a.jsonl.gz"]


def test_a_name_with_brackets_is_that_file_if_there_is_one(folder):
    odd = write_jsonl(folder / "a[1].jsonl", [])
    assert find_files(str(odd), name="corpus") == [odd]


def test_paths_start_at_the_working_or_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert find_files("~/b.jsonl", name="k") == [folder / "b.jsonl"]
    assert [file.resolve() for file in find_files("sub/*.jsonl", name="k")] == [folder / "sub/c.jsonl"]


READABLE = ".jsonl, .json, .csv, .tsv (each also .gz or .zst), .parquet or .arrow"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "dev: is not set. Give a .jsonl, .jsonl.gz or .parquet file: `dev`=PATH."),
        ([], "dev: is not set. Give a .jsonl, .jsonl.gz or .parquet file: `dev`=PATH."),
        ("sub", "dev: sub is a folder. Give its files, for example `dev`='sub/*.jsonl.gz'."),
        ("no.jsonl", "dev: there is no file no.jsonl (seen from {}). Correct the path."),
        ("no-*.jsonl", "dev: no file matches the glob no-*.jsonl (seen from {}). Correct the path."),
        (["b.jsonl", "x.jsonl"], "dev: there is no file x.jsonl (seen from {}). Correct the path."),
        ("notes.txt", f"dev: notes.txt is not a {READABLE} file. Convert it, or correct the path."),
        ("*", f"dev: notes.txt is not a {READABLE} file. Convert it, or correct the path."),
        (5, "dev: 5 is not a path. Give a path, a glob or a list of them: `dev`=PATH."),
        (["b.jsonl", None], "dev: None is not a path. Give a path, a glob or a list of them: `dev`=PATH."),
        ("hf://datasets/nq", "dev: hf://datasets/nq does not have the form hf://datasets/OWNER/NAME/FILE."),
        ("hf://datasets/a/b", "dev: hf://datasets/a/b does not have the form hf://datasets/OWNER/NAME/FILE."),
        ("hf://datasets/a/b/", "dev: hf://datasets/a/b/ does not have the form hf://datasets/OWNER/NAME/FILE."),
    ],
)
def test_a_path_that_cannot_be_read_is_named_with_its_argument(folder, spec, message):
    assert message_of(find_files, spec, name="dev").startswith(message.format(folder))


def test_rows_are_line_numbers_and_blank_lines_are_skipped(tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_bytes(b'\n{"a": "x\xe2\x80\xa8y"}\r\n  \n[1]')
    assert list(read_records(file)) == [(2, {"a": "x\u2028y"}), (4, [1])]


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz"])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"docid": "d1", "text": "x"', "not a JSON object (Expecting ',' delimiter, column 28). Correct the line."),
        (b"d1\tx", "not a JSON object (Expecting value, column 1). Correct the line."),
        (b'{"a": 1} {"a": 2}', "not a JSON object (Extra data, column 10). Correct the line."),
        (b'{"text": "caf\xe9"}', "not UTF-8 text (invalid continuation byte at byte 13). Convert the file to UTF-8."),
    ],
)
def test_a_malformed_line_is_named(tmp_path, name, line, problem):
    file, content = tmp_path / name, b'{"a": 1}\n' * 2 + line + b"\n" + b'{"a": 1}\n'
    file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    unit = "line" if "UTF-8" in problem else "row"
    assert message_of(read_records, file) == f"{file}, {unit} 3: {problem}"


def noise(rows):
    """Return rows that hardly compress, so that a file without its last bytes lacks rows."""
    return [{"docid": f"{i}", "text": os.urandom(40).hex()} for i in range(rows)]


def test_a_gzip_file_cut_short_is_named_with_the_last_row_read(tmp_path):
    whole = write_jsonl(tmp_path / "c.jsonl.gz", noise(300)).read_bytes()
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[: len(whole) // 2])
    message = message_of(read_records, cut)
    found = re.fullmatch(rf"{cut}, after line (\d+): damaged gzip data \((.*)\)\. Fetch the file again\.", message)
    assert found, message
    assert 0 < int(found[1]) < 300
    assert found[2] == "Compressed file ended before the end-of-stream marker was reached"


@pytest.mark.parametrize("place", [2, 40, -6])
def test_a_damaged_gzip_file_is_named(tmp_path, place):
    damaged = bytearray(write_jsonl(tmp_path / "c.jsonl.gz", noise(5)).read_bytes())
    damaged[place] ^= 0xFF
    file = tmp_path / "damaged.jsonl.gz"
    file.write_bytes(damaged)
    assert re.match(rf"{file}, (after )?line \d+: ", message_of(read_records, file))


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_gzip_is_detected_by_content_and_marks_are_skipped(tmp_path, name, compressed, mark, end):
    content = mark + end.join([b'{"a": "\xc3\xa9"}', b"", b'{"a": 2}', b""])
    file = tmp_path / name
    file.write_bytes(gzip.compress(content) if compressed else content)
    assert list(read_records(file)) == [(1, {"a": "é"}), (3, {"a": 2})]


def test_utf16_text_is_named(tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_bytes('{"a": 1}\n'.encode("utf-16"))
    assert "line 1: not UTF-8 text (invalid start byte at byte 0)" in message_of(read_records, file)


def test_a_deeply_nested_line_is_named(tmp_path):
    file = tmp_path / "c.jsonl"
    file.write_bytes(b"{}\n" + b"[" * 100_000 + b"\n")
    assert message_of(read_records, file).startswith(f"{file}, row 2: ")


def test_a_folder_with_a_files_name_is_an_error(tmp_path):
    (tmp_path / "c.jsonl").mkdir()
    assert "is a folder" in message_of(find_files, f"{tmp_path}/c.jsonl", name="k")
    assert message_of(read_records, tmp_path / "c.jsonl").startswith(f"{tmp_path}/c.jsonl, after row 0: cannot be read")


@pytest.mark.parametrize("kept", [0, 10, 0.5])
def test_a_parquet_file_cut_short_is_named(tmp_path, kept):
    file = tmp_path / "c.parquet"
    parquet.write_table(pa.Table.from_pylist(noise(50)), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    message = message_of(read_records, file)
    assert message.startswith(f"{file}, after row 0: cannot be read further (")
    assert message.endswith("). Fetch or write the file again.")


def test_a_damaged_parquet_page_is_named_with_the_last_row_read(tmp_path):
    file = tmp_path / "c.parquet"
    parquet.write_table(pa.Table.from_pylist(noise(4000)), file, row_group_size=1000, use_dictionary=False)
    damaged = bytearray(file.read_bytes())
    start = parquet.ParquetFile(file).metadata.row_group(2).column(0).data_page_offset
    damaged[start : start + 200] = b"\xff" * 200
    file.write_bytes(damaged)
    assert message_of(read_records, file).startswith(f"{file}, after row 2000: cannot be read further (")


def test_parquet_text_that_is_not_utf8_is_an_error(tmp_path):
    file = tmp_path / "c.parquet"
    text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"]).buffers())
    parquet.write_table(pa.table({"text": text}), file)
    assert message_of(read_records, file).startswith(f"{file}, after row 0: cannot be read further ('utf-8' codec")


def test_without_network_a_hub_address_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for address in ("hf://datasets/Tevatron/wikipedia-nq/nq-dev.jsonl.gz", "hf://datasets/Tevatron/nq/*.jsonl.gz"):
        message = message_of(find_files, address, name="dev")
        assert message.startswith(f"dev: {address} cannot be fetched from the hub (")
        assert message.endswith("). Check the network, or give a file.")


HUB_FILES = {
    "corpus-0.jsonl.gz": gzip.compress(b'{"docid": "0", "text": "x"}\n'),
    "corpus-1.jsonl.gz": gzip.compress(b'{"docid": "1", "text": "x"}\n'),
    "old/corpus-0.jsonl.gz": gzip.compress(b'{"docid": "0", "text": "x"}\n'),
    "README.md": b"about",
}
COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that fetching from the data set `own/set` needs."""

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if not re.match(r"(/api)?/datasets/own/set/", path):
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such data set"})
        elif "/tree/" in path:
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": f"{len(content):040x}"}
                for name, content in HUB_FILES.items()
            ]
            self.answer(200, json.dumps(listing).encode())
        elif "/resolve/" in path:
            name = path.split(f"/resolve/{COMMIT}/")[-1]
            self.answer(200, HUB_FILES[name], {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": COMMIT})
        else:
            siblings = [{"rfilename": name} for name in HUB_FILES]
            self.answer(200, json.dumps({"id": "own/set", "sha": COMMIT, "siblings": siblings}).encode())

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


FIND = """
import sys
from dpr_lightning.data.readers import find_files
from dpr_lightning.errors import UserError
for address in sys.argv[1:]:
    try:
        print([file.read_bytes()[-8:].hex() + " " + file.name for file in find_files(address, name="corpus")])
    except UserError as error:
        print(error)
"""


def find_on(endpoint, cache, *addresses, offline="0"):
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": offline}
    command = [sys.executable, "-c", FIND, *addresses]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_hub_files_are_fetched_listed_and_reused_offline(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint, own = f"http://127.0.0.1:{server.server_port}", "hf://datasets/own/set"
        all_there = f"{own}/corpus-*.jsonl.gz"
        found, one, missing, nowhere = find_on(
            endpoint,
            tmp_path,
            all_there,
            f"{own}/old/corpus-0.jsonl.gz",
            f"{own}/x.jsonl",
            "hf://datasets/own/no/x.jsonl",
        )
        server.shutdown()
    tails = {name: content[-8:].hex() for name, content in HUB_FILES.items()}
    expected = str([f"{tails[name]} {name}" for name in ("corpus-0.jsonl.gz", "corpus-1.jsonl.gz")])
    assert found == expected
    assert one == str([f"{tails['old/corpus-0.jsonl.gz']} corpus-0.jsonl.gz"])
    listed = "README.md, corpus-0.jsonl.gz, corpus-1.jsonl.gz, old/corpus-0.jsonl.gz"
    assert missing == f"corpus: own/set on the hub has no x.jsonl. It has {listed}. Correct `corpus`."
    assert nowhere.startswith("corpus: hf://datasets/own/no/x.jsonl cannot be fetched from the hub (")
    assert find_on(endpoint, tmp_path, all_there, offline="1") == [expected]
