import logging
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from libraries import stand_in
from packs import bounds

from hnet_kernels import providers
from hnet_kernels.providers import Face, Provider, installed, per_pack, provider


@pytest.fixture
def face(monkeypatch):
    """`best` needs a module that does not exist, `good` suits vectors of even length, `last` everything."""
    monkeypatch.setattr(providers, "_faces", {})
    return Face(
        "toy",
        Provider("best", lambda x: x * 3, modules=("no_such_module",), install="pip install no-such-module"),
        Provider("good", lambda x: x * 2, lambda x: x.shape[0] % 2 == 0, ("json",)),
        Provider("last", lambda x: x),
    )


def test_the_first_that_is_installed_and_suits_runs(face):
    assert torch.equal(face(torch.ones(2)), torch.full((2,), 2.0))
    assert torch.equal(face(torch.ones(3)), torch.ones(3))
    with stand_in("no_such_module"):
        assert torch.equal(face(torch.ones(2)), torch.full((2,), 3.0))


def test_choice_is_logged_once_for_a_dtype(face, caplog):
    providers._announce_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="hnet_kernels.providers"):
        for _ in range(3):
            face(torch.ones(2))
        face(torch.ones(2, dtype=torch.bfloat16))
    assert [record.getMessage() for record in caplog.records] == [
        "toy in float32 runs on good",
        "toy in bfloat16 runs on good",
    ]


def test_own_code_runs_on_a_cpu_unless_a_provider_is_asked_for(face):
    x = torch.ones(2)
    assert not face.wants(x)
    with provider("toy", "last"):
        assert face.wants(x) and torch.equal(face(x), x)
        with provider("toy", "good"):
            assert torch.equal(face(x), x * 2)
        assert torch.equal(face(x), x)
    assert not face.wants(x)
    assert face.wants(SimpleNamespace(device=torch.device("cuda")))
    assert not face.wants(x.to("meta"))


def test_override_ends_with_an_error_in_its_block(face):
    with pytest.raises(KeyError), provider("toy", "last"):
        raise KeyError
    assert not face.wants(torch.ones(2))


def test_missing_package_and_how_to_get_it_are_named(face):
    with pytest.raises(ImportError, match=r"best needs no_such_module, .* pip install no-such-module"):
        provider("toy", "best").__enter__()


def test_unknown_names_are_answered_with_the_known_ones(face):
    with pytest.raises(ValueError, match="choose one of best, good, last"):
        provider("toy", "bets").__enter__()
    with pytest.raises(ValueError, match="choose one of toy"):
        provider("tyo", "best").__enter__()


def test_choice_is_captured_with_the_graph_and_follows_the_override(face):
    def run(x):
        return face(x) + 1

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 3.0))
    with provider("toy", "last"):
        assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))


def test_compiler_does_not_look_into_an_opaque_adapter():
    seen = []

    @providers.opaque
    def library(x):
        seen.append(torch.compiler.is_compiling())
        return x.detach().numpy().sum() * x

    def run(x):
        return library(x + 1) * 2

    x = torch.ones(3, requires_grad=True)
    out = torch.compile(run, backend="eager")(x)
    out.sum().backward()
    assert torch.equal(out, run(x)) and torch.equal(x.grad, torch.full((3,), 12.0))
    assert seen and not any(seen)


def test_import_of_the_kernels_does_not_import_the_compiler():
    code = "import sys, hnet_kernels; assert not {'torch._dynamo', 'triton', 'fla'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})


def test_installed_looks_into_packages_without_importing_them(tmp_path, monkeypatch):
    package = tmp_path / "raises_when_imported"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError")
    (package / "inner" / "module.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed(("raises_when_imported", "raises_when_imported.inner.module"))
    assert not installed(("raises_when_imported.other",))
    assert not installed(("raises_when_imported.inner.module.below",))
    assert not installed(("json", "no_such_module.inner"))
    assert "raises_when_imported" not in sys.modules
    monkeypatch.setitem(sys.modules, "no_such_module", ModuleType("no_such_module"))
    assert installed(("no_such_module",))


def test_what_follows_from_a_pack_is_made_once_for_it():
    cu_seqlens, other = bounds([3, 4]), bounds([3, 4])
    made = []

    def make():
        made.append(1)
        return len(made)

    assert [per_pack(cu_seqlens, ("a",), make) for _ in range(3)] == [1, 1, 1]
    assert per_pack(other, ("a",), make) == 2
    assert per_pack(cu_seqlens, ("b",), make) == 3
    cu_seqlens[1] = 2
    assert per_pack(cu_seqlens, ("a",), make) == 4
    with torch.inference_mode():
        frozen = bounds([5])
        assert [per_pack(frozen, ("a",), make) for _ in range(2)] == [5, 5]


def test_what_was_made_for_a_pack_goes_with_it():
    before = len(providers._of_packs)
    cu_seqlens = bounds([3, 4])
    per_pack(cu_seqlens, ("a",), list)
    assert len(providers._of_packs) == before + 1
    del cu_seqlens
    assert len(providers._of_packs) == before
