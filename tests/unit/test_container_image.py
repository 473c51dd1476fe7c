"""What our images are made from, what it is called, and what is told of its build."""

import io
import tarfile
from pathlib import Path

import pytest

from container.base_image import debian_suite
from container.build_context import (
    BuildContext,
    base_image,
    runtime_context,
    sandbox_context,
)
from container.build_stream import BuildReport, Failed, Output, StepStarted, parse_message
from container.ca_bundle import HOST_BUNDLE, find_ca_bundle, read_ca_bundle
from container.errors import BaseImageUnavailable, BuildInputsInvalid, ImageNamesInvalid
from container.image_names import (
    FILE_NAME,
    parse_image_names,
    record_image,
    render_image_names,
)

CONTAINER_DIR = Path(__file__).parents[2] / "container"
PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout: `image/` and `runtime/`."""
    _write(tmp_path / "image/Dockerfile", "FROM debian:bookworm-slim\n")
    _write(tmp_path / "image/user-requirements.txt", "numpy==1\n")
    _write(tmp_path / "runtime/__main__.py", "print(1)\n")
    _write(tmp_path / "runtime/protocol/codec.py", "CODEC = 1\n")
    return tmp_path


def test_the_runtimes_context_holds_image_files_code_and_the_ca_bundle(checkout: Path) -> None:
    context = _context(checkout)

    assert set(context.files) == {
        "Dockerfile",
        "user-requirements.txt",
        "sandbox_runtime/__main__.py",
        "sandbox_runtime/protocol/codec.py",
        "ca-bundle.crt",
    }
    assert context.files["ca-bundle.crt"] == PEM


@pytest.mark.parametrize(
    "path",
    [
        "runtime/__pycache__/server.cpython-311.pyc",
        "runtime/tests/test_server.py",
        "runtime/test_files.py",
        "runtime/conftest.py",
        "runtime/.cache/notes",
    ],
)
def test_tests_and_compiled_files_do_not_change_the_image(checkout: Path, path: str) -> None:
    before = _context(checkout)

    _write(checkout / path, "anything")

    assert _context(checkout).tag == before.tag


@pytest.mark.parametrize(
    "path",
    ["image/Dockerfile", "image/user-requirements.txt", "image/new-file", "runtime/__main__.py"],
)
def test_a_change_of_any_input_changes_the_tag(checkout: Path, path: str) -> None:
    before = _context(checkout)

    _write(checkout / path, "# changed\n")

    assert _context(checkout).tag != before.tag


def test_another_ca_bundle_changes_the_tag(checkout: Path) -> None:
    one = sandbox_context(image_dir=checkout / "image", ca_pem=PEM)
    other = sandbox_context(image_dir=checkout / "image", ca_pem=PEM + PEM)

    assert one.tag != other.tag


def test_a_change_of_the_runtime_leaves_the_sandbox_image_as_it_is(checkout: Path) -> None:
    before = sandbox_context(image_dir=checkout / "image", ca_pem=PEM)

    _write(checkout / "runtime/__main__.py", "# changed\n")

    assert sandbox_context(image_dir=checkout / "image", ca_pem=PEM).tag == before.tag


def test_the_digest_does_not_depend_on_the_order_of_the_files() -> None:
    one = BuildContext("coldframe/x", {"a": b"1", "b": b"2"})
    other = BuildContext("coldframe/x", {"b": b"2", "a": b"1"})

    assert one.digest == other.digest


def test_bytes_that_move_from_one_file_to_its_neighbour_change_the_digest() -> None:
    one = BuildContext("coldframe/x", {"a": b"12", "b": b"3"})
    other = BuildContext("coldframe/x", {"a": b"1", "b": b"23"})

    assert one.digest != other.digest


def test_the_tag_is_the_first_twelve_hex_digits_of_the_digest() -> None:
    context = BuildContext("coldframe/x", {"a": b"1"})

    assert context.tag == f"coldframe/x:{context.digest[:12]}"


def test_the_archive_holds_exactly_the_hashed_files_and_is_the_same_each_time(
    checkout: Path,
) -> None:
    context = _context(checkout)

    archive = context.as_tar()

    assert archive == context.as_tar()
    assert _unpacked(archive) == context.files


def test_a_checkout_without_a_runtime_is_refused(checkout: Path) -> None:
    (checkout / "runtime/__main__.py").unlink()

    with pytest.raises(BuildInputsInvalid, match=r"__main__\.py"):
        _context(checkout)


def test_the_base_image_is_what_the_first_from_names() -> None:
    assert base_image("# a comment\nFROM debian:trixie-slim AS x\nFROM y\n") == "debian:trixie-slim"


@pytest.mark.parametrize("name", ["sandbox", "runtime"])
def test_our_own_dockerfiles_start_from_an_image_that_can_be_made_without_a_registry(
    name: str,
) -> None:
    dockerfile = (CONTAINER_DIR / name / "Dockerfile").read_text()

    assert debian_suite(base_image(dockerfile)) == "bookworm"


def test_only_debian_can_be_made_without_a_registry() -> None:
    with pytest.raises(BaseImageUnavailable) as caught:
        debian_suite("alpine:3.20")

    assert "docker load" in caught.value.hint


@pytest.mark.parametrize(
    "path", sorted(CONTAINER_DIR.glob("*/*requirements.txt")), ids=lambda path: path.name
)
def test_every_package_in_our_images_is_pinned(path: Path) -> None:
    lines = path.read_text().splitlines()

    packages = [line for line in lines if not line.startswith("#")]

    assert packages
    assert all("==" in package for package in packages)


def test_the_operators_ca_bundle_goes_before_the_hosts() -> None:
    assert find_ca_bundle("/srv/ca.pem") == Path("/srv/ca.pem")


def test_an_empty_setting_means_the_hosts_own_ca_bundle_where_there_is_one() -> None:
    assert find_ca_bundle("") == find_ca_bundle(None)
    assert find_ca_bundle(None) in (HOST_BUNDLE, None)


def test_no_ca_bundle_reads_as_empty() -> None:
    assert read_ca_bundle(None) == b""


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_a_ca_bundle_without_certificates_is_refused_by_the_settings_name(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(BuildInputsInvalid) as caught:
        read_ca_bundle(path)

    assert str(path) in str(caught.value)
    assert "COLDFRAME_CA_BUNDLE" in caught.value.hint


def test_image_names_are_read_as_they_were_written() -> None:
    names = {"default": "sha256:aa", "python 3": "sha256:bb", 'a"b': "sha256:cc"}

    assert parse_image_names(render_image_names(names)) == names


def test_recording_an_image_keeps_the_operators_other_names(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text('[images]\nmine = "sha256:aa"\ndefault = "sha256:bb"\n')

    record_image(tmp_path, "default", "sha256:cc")

    names = parse_image_names((tmp_path / FILE_NAME).read_text())
    assert names == {"mine": "sha256:aa", "default": "sha256:cc"}


def test_recording_an_image_makes_the_state_directory_and_leaves_one_file(tmp_path: Path) -> None:
    record_image(tmp_path / "state", "default", "sha256:aa")

    assert [path.name for path in (tmp_path / "state").iterdir()] == [FILE_NAME]


def test_recording_what_is_already_recorded_does_not_touch_the_file(tmp_path: Path) -> None:
    text = '# mine\n[images]\ndefault = "sha256:aa"\n'
    (tmp_path / FILE_NAME).write_text(text)

    record_image(tmp_path, "default", "sha256:aa")

    assert (tmp_path / FILE_NAME).read_text() == text


@pytest.mark.parametrize("text", ["[images", "images = 3", "[images]\nx = 3", "[other]\nx = 'y'"])
def test_a_file_of_image_names_that_is_not_ours_is_refused(text: str) -> None:
    with pytest.raises(ImageNamesInvalid):
        parse_image_names(text)


def test_a_step_is_read_with_its_number_and_its_instruction_on_one_line() -> None:
    event = parse_message({"stream": "Step 3/18 : RUN apt-get update     && true"})

    assert event == StepStarted(3, 18, "RUN apt-get update && true")


def test_what_a_step_prints_is_output() -> None:
    assert parse_message({"stream": "Get:1 bookworm\n"}) == Output("Get:1 bookworm\n")


def test_the_engines_colours_are_taken_out() -> None:
    message = {"stream": "\x1b[91mmake: not found\n\x1b[0m"}

    assert parse_message(message) == Output("make: not found\n")


def test_an_error_in_the_stream_is_a_failure() -> None:
    assert parse_message({"error": "exit code 1\n", "errorDetail": {}}) == Failed("exit code 1")


def test_messages_that_tell_nothing_are_passed_over() -> None:
    assert parse_message({"aux": {"ID": "sha256:aa"}}) is None


def test_each_step_is_told_as_it_starts_and_a_long_one_as_it_ends() -> None:
    report = BuildReport()

    lines = [
        *report.tell(StepStarted(1, 3, "FROM debian"), now_s=100.0),
        *report.tell(StepStarted(2, 3, "RUN make"), now_s=100.1),
        *report.tell(Output("gcc\n"), now_s=110.0),
        *report.tell(StepStarted(3, 3, "COPY a b"), now_s=141.3),
        *report.end(now_s=141.4),
    ]

    assert lines == [
        "step 1/3: FROM debian",
        "step 2/3: RUN make",
        "step 2/3: took 41.2 s",
        "step 3/3: COPY a b",
    ]


def test_a_long_instruction_is_shortened() -> None:
    [line] = BuildReport().tell(StepStarted(1, 1, "RUN " + "x" * 500), now_s=0.0)

    assert len(line) < 120
    assert line.endswith("…")


def test_a_failure_is_told_with_the_last_output_of_its_own_step() -> None:
    report = BuildReport()
    report.tell(StepStarted(1, 2, "RUN one"), now_s=0.0)
    report.tell(Output("of step one\n"), now_s=0.0)
    report.tell(StepStarted(2, 2, "RUN two"), now_s=0.0)
    for number in range(1000):
        report.tell(Output(f"line {number}\n"), now_s=0.0)

    report.tell(Failed("exit code 1"), now_s=0.0)

    assert report.last_output.endswith("line 999")
    assert "of step one" not in report.last_output
    assert len(report.last_output.splitlines()) == 40


def _context(checkout: Path) -> BuildContext:
    return runtime_context(
        image_dir=checkout / "image", runtime_dir=checkout / "runtime", ca_pem=PEM
    )


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _unpacked(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        return {name: file.read() for name, file in files.items() if file is not None}
