"""What a measurement ran on: nothing of the user, no engine that is not there, ready for JSON."""

from __future__ import annotations

import json
import platform
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import fxquant
from fxquant.measurement import environment
from fxquant.measurement.environment import describe_environment


def test_it_can_be_written_and_read_back() -> None:
    found = describe_environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["fxquant"], found["torch"]) == (fxquant.__version__, torch.__version__)
    assert found["cores"] >= 1


def test_it_names_no_host_no_user_and_no_path() -> None:
    text = json.dumps(describe_environment())
    assert str(Path.home()) not in text
    assert str(Path.cwd()) not in text
    assert f'"{socket.gethostname()}"' not in text


def test_threads_are_those_of_now() -> None:
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert describe_environment()["threads"] == count
    finally:
        torch.set_num_threads(before)


def test_engines_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package in ("openvino", "timm"):
            return "7"
        raise PackageNotFoundError(package)

    monkeypatch.setattr(environment, "version", version)
    assert describe_environment()["engines"] == {"openvino": "7"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: Some CPU: fast\nmodel name\t: Other\n", "Some CPU: fast"),
        ("processor\t: 0\nmodel\t\t: 85\n", "of the platform"),  # as on Arm
        (None, "of the platform"),  # as on other systems
    ],
)
def test_the_processor_has_a_name(text: str | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Path, **_: str) -> str:
        if text is None:
            raise FileNotFoundError(self)
        return text

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(platform, "processor", lambda: "of the platform")
    assert environment._processor() == name


def test_features_are_those_that_matter_for_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"amx_int8": True, "avx512_vnni": True, "avx2": False, "sse4_1": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert describe_environment()["features"] == ["avx512_vnni", "amx_int8"]
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert describe_environment()["features"] == []
