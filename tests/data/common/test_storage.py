"""Files at URLs: found, read and written through failures; mistakes in one line."""

import os
import re
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
import trustme

from benchmarks.s3_server import S3Server
from data.common import storage
from data.common.errors import UserError
from data.common.parallel import ordered_map

ROOT = Path(__file__).resolve().parents[3]
CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def bucket(s3):
    for name in ("a/one.bin", "a/two.bin", "a/.hidden", "a/deep/three.bin", "b[1]/four"):
        path = s3.folder / "bucket" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(CONTENT)
    return s3


def names(found):
    return [file.url.removeprefix("s3://bucket/") for file in found]


def test_folders_globs_and_files_are_found(bucket):
    assert names(storage.find("s3://bucket/a/")) == ["a/.hidden", "a/one.bin", "a/two.bin"]
    assert names(storage.find("s3://bucket/a/t*.bin")) == ["a/two.bin"]
    assert names(storage.find("s3://bucket/*/*/*.bin")) == ["a/deep/three.bin"]
    (file,) = storage.find("s3://bucket/a/one.bin")
    assert file.size == len(CONTENT) and len(file.version) > 8
    assert file in storage.find("s3://bucket/a")
    assert names(storage.below("s3://bucket/a"))[2:] == ["a/one.bin", "a/two.bin"]
    for nothing in ("s3://bucket/c", "s3://bucket/c/*", "s3://elsewhere/a"):
        assert storage.find(nothing) == []
    assert storage.below("s3://bucket/c") == []
    for brackets in ("s3://bucket/b[1]", "s3://bucket/b[1]/four", "s3://bucket/b[[]1]/f*"):
        assert names(storage.find(brackets)) == ["b[1]/four"]


def test_a_folder_that_gets_its_first_file_while_it_is_listed_is_no_file(bucket, monkeypatch):
    first = {"name": "bucket/c", "type": "directory", "size": 0}  # of its second request
    monkeypatch.setattr("s3fs.S3FileSystem.find", lambda *_, **__: {"bucket/c": first})
    assert storage.below("s3://bucket/c") == []


def test_parts_of_files_are_read(bucket):
    url = "s3://bucket/a/one.bin"
    assert storage.read(url) == CONTENT
    assert storage.read(url, 7, 300) == CONTENT[7:307]
    assert storage.read(url, len(CONTENT) - 5) == CONTENT[-5:]
    assert storage.read(url, len(CONTENT) - 5, 100) == CONTENT[-5:]
    assert storage.read(url, len(CONTENT), 100) == b""
    storage.write("s3://bucket/empty", b"")
    assert storage.read("s3://bucket/empty") == b""


def test_files_are_written_copied_and_deleted(bucket, tmp_path):
    url = "s3://bucket/new/file"
    storage.write(url, b"first")
    before = storage.find(url)
    storage.write(url, b"other")
    assert storage.read(url) == b"other" and storage.find(url) != before
    (tmp_path / "here").write_bytes(CONTENT)
    storage.upload(tmp_path / "here", url)
    storage.download(url, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == CONTENT
    storage.delete(url)
    storage.delete(url)
    assert storage.find(url) == []
    with pytest.raises(FileNotFoundError, match="s3://bucket/new/file: no such file or bucket"):
        storage.read(url)


@pytest.mark.slow
def test_one_failure_in_three_changes_nothing(bucket):
    bucket.fail_every = 3
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda n: storage.read("s3://bucket/a/one.bin", n, 9), range(16))
        assert list(parts) == [CONTENT[n : n + 9] for n in range(16)]
    assert len(storage.find("s3://bucket/a")) == 3
    storage.write("s3://bucket/new", b"content")
    assert storage.read("s3://bucket/new") == b"content"


def test_a_server_that_starts_anew_is_waited_for(bucket):
    storage.read("s3://bucket/a/one.bin", 0, 9)
    bucket.stop()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(storage.read, "s3://bucket/a/one.bin", 0, 9)
        time.sleep(0.3)
        assert not reading.done()
        bucket.start()
        assert reading.result(10) == CONTENT[:9]


def _in_child(number):
    return storage.read("s3://bucket/a/one.bin", number, 9)


def test_forked_processes_have_connections_of_their_own(bucket):
    assert _in_child(0) == CONTENT[:9]
    assert list(ordered_map(_in_child, range(4), 2)) == [CONTENT[n : n + 9] for n in range(4)]


def refused(url, action=storage.find):
    """The one line in which a mistake ends, soon."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        action(url)
    assert time.monotonic() - start < 10  # whatever keeps the machine busy
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tried_for_a_while(text):
    return re.search(r"; retried for \d+ s$", text)


def test_denied_access_ends_at_once(bucket, monkeypatch, tmp_path):
    assert "s3://denied/a: access denied" in refused("s3://denied/a")
    assert "access denied" in refused("s3://denied/a", storage.read)
    http = f"{bucket.url}/denied/a"
    assert f"{http}: access denied" in refused(http, storage.read)
    assert f"{http}: access denied" in refused(http)


def test_missing_credentials_end_at_once(bucket, monkeypatch, tmp_path):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    text = refused("s3://bucket/a/one.bin", storage.read)
    assert "s3://bucket/a/one.bin: access denied" in text and "check the credentials" in text


@pytest.mark.slow
def test_a_server_that_stays_away_is_an_error_after_a_while(bucket, monkeypatch):
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.4)
    bucket.stop()
    assert "s3://bucket/a: EndpointConnectionError: Could not connect" in refused("s3://bucket/a")
    assert tried_for_a_while(refused(f"{bucket.url}/bucket/a/one.bin"))
    bucket.start()
    bucket.fail_every = 1
    assert "s3://bucket/a: OSError" in refused("s3://bucket/a")


def test_what_is_no_url_of_ours_is_an_error(monkeypatch):
    assert "nonsense://x: Protocol not known: nonsense" in refused("nonsense://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    assert 'URLs need pip install -e ".[cloud]"' in refused("s3://bucket/a")
    assert storage.is_url("s3://a") and not storage.is_url("a/s3") and not storage.is_url("c:/a")


def test_web_servers_have_folders_where_they_list_them(bucket):
    web = f"{bucket.url}/bucket"
    assert [file.url for file in storage.find(f"{web}/a/")] == [
        f"{web}/a/{name}" for name in (".hidden", "one.bin", "two.bin")
    ]
    assert [file.url for file in storage.find(f"{web}/a/t*.bin")] == [f"{web}/a/two.bin"]
    (file,) = storage.find(f"{web}/a/one.bin?token=*")
    assert file.size == len(CONTENT) and file.version
    assert storage.read(file.url, 5, 10) == CONTENT[5:15]
    assert storage.find(f"{web}/a/none") == []


def test_a_server_without_ranges_is_an_error(bucket, monkeypatch):
    monkeypatch.setattr("benchmarks.s3_server._RANGE", re.compile("none"))
    url = f"{bucket.url}/bucket/a/one.bin"
    assert "the server does not support byte ranges" in refused(
        url, lambda url: storage.read(url, 0, 9)
    )


@pytest.mark.parametrize("place", ["memory://", "file://"])
def test_other_kinds_of_storage(place, tmp_path):
    folder = f"{place}{tmp_path}/x"
    os.makedirs(tmp_path / "x")
    storage.write(f"{folder}/a", CONTENT)
    (file,) = storage.find(folder)
    assert (file.url, file.size) == (f"{folder}/a", len(CONTENT)) and file.version
    assert storage.read(file.url, 3, 4) == CONTENT[3:7] and storage.find(f"{folder}/?") == [file]
    storage.delete(file.url)
    assert storage.below(folder) == []
    assert f"{file.url}: no such file or bucket" in refused(file.url, storage.read)


def test_files_of_a_disk_appear_as_a_whole(tmp_path, monkeypatch):
    url, written = f"file://{tmp_path}/a", []
    storage.write(url, b"old")
    rename = os.replace

    def watched(old, new):
        written.append((os.path.basename(old), Path(old).read_bytes(), storage.read(url)))
        rename(old, new)

    monkeypatch.setattr(os, "replace", watched)
    storage.write(url, b"new")
    ((name, *contents),) = written
    assert re.fullmatch(r"\.a\.[0-9a-f]{32}\.tmp", name) and contents == [b"new", b"old"]
    assert storage.read(url) == b"new" and os.listdir(tmp_path) == ["a"]


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    url = f"file://{tmp_path}/a"
    assert f"{url}: IsADirectoryError" in refused(url, lambda url: storage.write(url, CONTENT))
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["a"]


@pytest.fixture
def hadoop(monkeypatch, tmp_path):
    """No configuration, no name node; forgets that there was a client."""
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.2)
    monkeypatch.setitem(storage._HADOOP_OPTIONS, "dfs.client.failover.max.attempts", "1")
    yield
    storage._hadoop_files.cache_clear()


def test_hadoop_has_to_be_there(hadoop):
    assert "hdfs:///x: RuntimeError: InvalidArgument(" in refused("hdfs:///x", storage.read)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"hdfs://127.0.0.1:{closed.getsockname()[1]}/x"
    assert f"{url}: OSError: Connection refused" in (text := refused(url, storage.read))
    assert tried_for_a_while(text)


DENIED = r"""RPCError("org.apache.hadoop.security.AccessControlException", "Permission
 denied: user=x\n\tat org.apache.hadoop.hdfs.server.namenode.Checker.check(Checker.java:32)")"""
SAFE = r"""RPCError("org.apache.hadoop.hdfs.server.namenode.SafeModeException", "Safe.\nWait.")"""


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (DENIED, r'access denied .*AccessControlException", "Permission denied: user=x\); '
         r"check the credentials and the permissions$"),
        (SAFE, r'SafeModeException", "Safe. Wait."\); retried for \d+ s$'),
    ],
)  # fmt: skip
def test_errors_of_hadoop_are_one_line_without_the_stack_of_java(hadoop, raised, text, monkeypatch):
    def fail(*_):
        raise RuntimeError(raised)

    monkeypatch.setattr("hdfs_native.fsspec.HdfsFileSystem.info", fail)
    assert re.search(text, refused("hdfs://127.0.0.1:1/x"))


@pytest.mark.parametrize("name", ["part-?.tfrecords", "a#1"])
def test_paths_that_the_client_of_hadoop_would_cut_short_are_refused(hadoop, name):
    assert "no ? and # in hdfs:// URLs" in refused(f"hdfs://127.0.0.1:1/records/{name}")


def test_threads_share_the_client_of_hadoop(hadoop, monkeypatch):
    connect, made = fsspec.url_to_fs, []

    def connect_slowly(url, **options):
        made.append(url)
        time.sleep(0.05)
        return connect(url, **options)

    monkeypatch.setattr(fsspec, "url_to_fs", connect_slowly)
    monkeypatch.setattr("hdfs_native.fsspec.HdfsFileSystem.cat_file", lambda *_, **__: b"x")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(storage.read, ["hdfs://127.0.0.1:1/x"] * 8)) == {b"x"}
    assert made == ["hdfs://127.0.0.1:1"]


def test_no_process_forks_while_hadoop_is_in_use(hadoop):
    assert list(ordered_map(str, range(3), 2)) == ["0", "1", "2"]
    storage.check_fork()
    refused("hdfs://127.0.0.1:1/x", storage.read)
    with pytest.raises(UserError, match="use --processes=1"):
        list(ordered_map(str, range(3), 2))
    assert list(ordered_map(str, range(3), 1)) == ["0", "1", "2"]


def test_a_full_disk_ends_a_download(bucket):
    with pytest.raises(UserError, match=r"s3://bucket/a/one\.bin: OSError: .*No space left"):
        storage.download("s3://bucket/a/one.bin", "/dev/full")


def check_whole_files(bucket, folder):
    """Files of some bytes and of more than a request holds, written, found and read."""
    assert storage.find(f"{bucket}/a") == [] and storage.find(f"{bucket}-else/a") == []
    large = os.urandom(101 << 20)
    storage.write(f"{bucket}/a/large", large)
    (folder / "large").write_bytes(large)
    storage.upload(folder / "large", f"{bucket}/a/uploaded")
    found = storage.find(f"{bucket}/a")
    assert [(file.url, file.size) for file in found] == [
        (f"{bucket}/a/{name}", len(large)) for name in ("large", "uploaded")
    ]
    assert all(file.version for file in found)
    assert storage.find(f"{bucket}/a/l*") == storage.find(f"{bucket}/a/large") == found[:1]
    assert storage.below(bucket) == found
    assert storage.read(f"{bucket}/a/uploaded", 99 << 20, 100) == large[99 << 20 :][:100]
    assert storage.read(f"{bucket}/a/large", len(large), 5) == b""
    storage.download(f"{bucket}/a/large", folder / "back")
    assert (folder / "back").read_bytes() == large
    storage.write(f"{bucket}/empty", b"")
    assert storage.read(f"{bucket}/empty") == b""
    storage.delete(f"{bucket}/empty")
    assert f"{bucket}/empty: no such file or bucket" in refused(f"{bucket}/empty", storage.read)


@pytest.mark.slow
def test_it_works_with_the_s3_of_others(s3, tmp_path, monkeypatch):
    """Moto's, which also takes uploads in parts."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        check_whole_files("s3://bucket", tmp_path)
    finally:
        server.stop()


@pytest.fixture
def google(monkeypatch):
    """A free port, to which gs:// leads."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # which the emulator has not
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    import gcsfs

    gcsfs.GCSFileSystem.clear_instance_cache()
    return port


@pytest.mark.slow
def test_it_works_with_google_cloud_storage(google, tmp_path):
    """As far as its emulator is like it."""
    from gcp_storage_emulator.server import create_server

    with create_server("127.0.0.1", google, in_memory=True, default_bucket="bucket"):
        check_whole_files("gs://bucket", tmp_path)
        parts = ordered_map(_first_bytes, ["gs://bucket/a/large"] * 4, 2)
        assert len(set(parts)) == 1


def test_google_cloud_storage_that_is_away_is_one_line(google, monkeypatch, caplog):
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr("asyncio.sleep", no_pause)  # of gcsfs, between its own attempts
    text = refused("gs://bucket/a", storage.read)
    assert text.startswith("gs://bucket/a: ClientConnectorError: Cannot connect to host 127.0.0.1")
    assert tried_for_a_while(text) and "Traceback" not in caplog.text


async def no_pause(*_):
    pass


def _first_bytes(url):
    return storage.read(url, 0, 9)


@pytest.fixture
def tls(s3, tmp_path, monkeypatch):
    """A server with a certificate of an authority of its own, and the file of that."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    (s3.folder / "bucket" / "x").write_bytes(CONTENT)
    with S3Server(s3.folder, tls=tls) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server, str(tmp_path / "authority.pem")


READ = "import sys; from data.common import storage; print(len(storage.read(sys.argv[1])))"


def test_a_server_whose_certificate_is_unknown_is_refused_until_its_authority_is_named(tls):
    server, authority = tls

    def read(url, **variables):
        command = [sys.executable, "-c", READ, url]
        texts = {"cwd": ROOT, "capture_output": True, "text": True}
        return subprocess.run(command, env=os.environ | variables, timeout=30, **texts)

    for url, variable in {
        "s3://bucket/x": "AWS_CA_BUNDLE",
        f"{server.url}/bucket/x": "SSL_CERT_FILE",
    }.items():
        failed = read(url).stderr.splitlines()[-1]
        assert f"UserError: {url}: " in failed and "CERTIFICATE_VERIFY_FAILED" in failed
        assert failed.endswith(f"; set {variable} to the file of its authority's certificate")
        assert read(url, **{variable: authority}).stdout == f"{len(CONTENT)}\n"
